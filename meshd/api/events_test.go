package api

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
)

// stream opens /events and returns a function that reads the next one.
func (r *rig) stream(query string) func() events.Message {
	r.t.Helper()
	client := *r.client
	client.Timeout = time.Minute
	res, err := client.Get("http://docker/v1.51/events" + query)
	if err != nil || res.StatusCode != http.StatusOK {
		r.t.Fatalf("events: %v, %v", res, err)
	}
	r.t.Cleanup(func() { _ = res.Body.Close() })
	lines := bufio.NewScanner(res.Body)
	return func() (m events.Message) {
		r.t.Helper()
		if !lines.Scan() {
			r.t.Fatalf("the stream ended: %v", lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			r.t.Fatal(err)
		}
		return m
	}
}

func TestEventsAreMerged(t *testing.T) {
	r := newRig(t)
	next := r.stream("")
	r.engine.events <- `{"Type":"container","Action":"start","Actor":{"ID":"c1"},"scope":"local"}`
	if m := next(); m.Type != "container" || m.Actor.ID != "c1" {
		t.Fatalf("got %+v", m)
	}
	r.do("POST", "/services/create", `{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"nginx"}}}`).want(201, "")
	if m := next(); m.Type != "service" || m.Action != "create" || m.Actor.Attributes["name"] != "web" || m.Scope != "swarm" || m.TimeNano == 0 {
		t.Fatalf("got %+v", m)
	}
	r.do("DELETE", "/services/web", nil).want(200, "")
	if m := next(); m.Action != "remove" {
		t.Fatalf("got %+v", m)
	}
	r.engine.events <- `{"Type":"container","Action":"die","Actor":{"ID":"c1"}}`
	if m := next(); m.Action != "die" {
		t.Fatalf("got %+v", m)
	}
}

func TestEventsAreFiltered(t *testing.T) {
	r := newRig(t)
	next := r.stream("?filters=" + url.QueryEscape(`{"type":{"secret":true}}`))
	r.do("POST", "/configs/create", `{"Name":"c","Data":"aGk="}`).want(201, "")
	r.do("POST", "/secrets/create", `{"Name":"s","Data":"aGk="}`).want(201, "")
	if m := next(); m.Type != "secret" || m.Actor.Attributes["name"] != "s" {
		t.Fatalf("got %+v", m)
	}
}

func TestMatchEvent(t *testing.T) {
	m := events.Message{Type: "service", Action: "update", Scope: "swarm", Actor: events.Actor{ID: "id", Attributes: map[string]string{"name": "web"}}}
	for raw, want := range map[string]bool{
		``: true, `{"type":["service","node"]}`: true, `{"type":["container"]}`: false, `{"scope":["local"]}`: false,
		`{"event":["update"]}`: true, `{"event":["create"]}`: false, `{"service":["web"]}`: true, `{"service":["id"]}`: true,
		`{"service":["other"]}`: false, `{"container":["x"]}`: false, `{"node":["n"],"service":["web"]}`: false, `{"service":["we","x"]}`: true, `{"label":["a"]}`: false,
	} {
		f, err := decodeFilters(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := matchEvent(f, m); got != want {
			t.Errorf("%s: %v", raw, got)
		}
	}
}

// TestEventsOfThePast: what was comes in order, the engine's and ours, nothing twice and
// nothing missing where it goes over into what happens now.
func TestEventsOfThePast(t *testing.T) {
	r := newRig(t)
	engine := func(id string, at time.Time) string {
		return fmt.Sprintf(`{"Type":"container","Action":"start","Actor":{"ID":%q},"scope":"local","timeNano":%d}`, id, at.UnixNano())
	}
	stamp := func(at time.Time) string { return fmt.Sprintf("%d.%09d", at.Unix(), at.Nanosecond()) }
	for _, id := range []string{"a", "b", "c"} {
		r.engine.past = append(r.engine.past, engine(id, time.Now()))
		r.do("POST", "/secrets/create", `{"Name":"`+id+`s","Data":"aGk="}`).want(201, "")
	}
	began := time.Now()
	all := r.stream("?since=" + stamp(began.Add(-time.Hour)) + "&filters=" + url.QueryEscape(`{"type":["container","secret"]}`))
	for _, id := range []string{"a", "b", "c"} {
		if m := all(); m.Actor.ID != id {
			t.Fatalf("got %+v, want the start of %s", m, id)
		}
		if m := all(); m.Type != "secret" || m.Actor.Attributes["name"] != id+"s" {
			t.Fatalf("got %+v, want secret %ss", m, id)
		}
	}
	r.engine.events <- engine("d", time.Now())
	if m := all(); m.Actor.ID != "d" {
		t.Fatalf("got %+v, want the start of d", m)
	}
	r.do("DELETE", "/secrets/as", nil).want(204, "")
	if m := all(); m.Action != "remove" || m.Actor.Attributes["name"] != "as" {
		t.Fatalf("got %+v, want the removal of as", m)
	}

	get := func(query string) []string {
		t.Helper()
		var out []string
		for _, line := range strings.Split(strings.TrimSpace(string(r.do("GET", "/events?"+query, nil).want(200, "").body)), "\n") {
			var m events.Message
			if json.Unmarshal([]byte(line), &m) == nil && m.Scope == "swarm" { // this engine knows no filters
				out = append(out, string(m.Type)+" "+string(m.Action)+" "+m.Actor.Attributes["name"])
			}
		}
		return out
	}
	secrets := "&filters=" + url.QueryEscape(`{"type":["secret"]}`)
	want := []string{"secret create as", "secret create bs", "secret create cs"}
	if got := get("until=" + stamp(began) + secrets); !slices.Equal(got, want) {
		t.Errorf("until then: %q", got)
	}
	if got := get("since=" + stamp(began) + "&until=" + stamp(time.Now()) + secrets); !slices.Equal(got, []string{"secret remove as"}) {
		t.Errorf("since then: %q", got)
	}
	if got := get("since=1&until=2"); len(got) != 0 {
		t.Errorf("long ago: %q", got)
	}
	r.do("GET", "/events?since=5&until=4", nil).want(400, "cannot be after")
	r.do("GET", "/events?since=yesterday", nil).want(400, "seconds since 1970")
	r.do("GET", "/events?filters=x", nil).want(400, "invalid filters")
}
