package api

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
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
		`{"service":["other"]}`: false, `{"container":["x"]}`: false, `{"node":["n"],"service":["web"]}`: true, `{"label":["a"]}`: false,
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

func TestEventMessages(t *testing.T) {
	was := testNode("n", "node9", swarm.NodeRoleWorker, swarm.NodeStateReady)
	is := testNode("n", "node9", swarm.NodeRoleManager, swarm.NodeStateDown)
	m, ok := message(store.Event{Action: store.Update, Old: was, New: is}, time.Unix(5, 0))
	for k, want := range map[string]string{
		"name": "node9", "role.old": "worker", "role.new": "manager", "state.new": "down", "reachability.new": "reachable", "availability.new": "",
	} {
		if got := m.Actor.Attributes[k]; !ok || got != want {
			t.Errorf("node: %s is %q, want %q", k, got, want)
		}
	}
	service := func(image string, replicas uint64, state swarm.UpdateState) *store.Service {
		s := &store.Service{}
		s.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: image}
		s.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &replicas}
		s.UpdateStatus = &swarm.UpdateStatus{State: state}
		return s
	}
	m, _ = message(store.Event{Action: store.Update, Old: service("a", 1, ""), New: service("b", 2, "updating")}, time.Unix(5, 0))
	for k, want := range map[string]string{"image.old": "a", "image.new": "b", "replicas.new": "2", "updatestate.new": "updating"} {
		if got := m.Actor.Attributes[k]; got != want {
			t.Errorf("service: %s is %q, want %q", k, got, want)
		}
	}
	if _, ok := message(store.Event{Action: store.Create, New: &store.Task{}}, time.Unix(5, 0)); ok {
		t.Error("Docker tells nothing of tasks")
	}
}
