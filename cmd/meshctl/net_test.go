package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/meshd/observe"
)

// socket is where a test's daemon listens.
type socket string

func (s socket) Dialer() func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", string(s))
	}
}

// daemon serves h on a socket until the test ends.
func daemon(t *testing.T, h http.HandlerFunc) socket {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meshd.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return socket(path)
}

func answer(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(v) }
}

func TestRefusalsComeInTheDaemonsWords(t *testing.T) {
	for body, want := range map[string]string{`{"message":"no container x"}`: "no container x", "page not found": "is it an older version"} {
		s := daemon(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, body, http.StatusNotFound) })
		if err := newMeshClient(s).get(t.Context(), "/mesh/net/trace", nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestCheckAsksEveryHost(t *testing.T) {
	good := daemon(t, answer(observe.Report{Node: "a"}))
	bad := daemon(t, answer(observe.Report{Node: "b", Differences: []observe.Difference{{Part: "overlay", What: "route"}}}))
	reports, err := checkEach(t.Context(), []string{"unix://" + string(good), "unix:///no/such/socket", "unix://" + string(bad)})
	if err == nil || !strings.Contains(err.Error(), "unix:///no/such/socket: ") || len(reports) != 2 || reports[1].Node != "b" {
		t.Errorf("%+v, %v", reports, err)
	}
}

func TestFlowsFollowPrintsEachOnce(t *testing.T) {
	flow := func(port uint16) observe.Flow {
		return observe.Flow{Service: "web", Client: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port), State: "open"}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int32
	s := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("service") != "web" || r.URL.Query().Get("all") != "1" {
			t.Errorf("asked for %s", r.URL)
		}
		flows := []observe.Flow{flow(1)}
		if asked.Add(1) > 1 {
			flows = append(flows, flow(2))
			defer cancel()
		}
		answer(flows)(w, r)
	})
	var out bytes.Buffer
	err := runFlows(ctx, &out, newMeshClient(s), flowsOptions{service: "web", all: true, follow: true, format: "table"})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	text := out.String()
	if strings.Count(text, "SERVICE") != 1 || strings.Count(text, "192.0.2.1:1") != 1 {
		t.Errorf("printed:\n%s", text)
	}
}

func TestFormats(t *testing.T) {
	s := daemon(t, answer([]observe.Flow{{Service: "web", Node: "node2", IdleSeconds: 90}}))
	for format, want := range map[string]string{
		"table":                  "About a minute",
		"{{.Service}}@{{.Node}}": "web@node2\n",
		"json":                   `"Service":"web"`,
		"table {{.Node}}":        "NODE\nnode2\n",
	} {
		var out bytes.Buffer
		if err := runFlows(t.Context(), &out, newMeshClient(s), flowsOptions{format: format}); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %q, %v", format, out.String(), err)
		}
	}
	var out bytes.Buffer
	tr := observe.Trace{Steps: []observe.Step{{Hop: "name", Says: "web is 10.0.0.2", OK: true}, {Hop: "vip", Says: "no backend", Advice: "look"}}}
	if err := printTrace(&out, "pretty", tr); err != nil || !strings.Contains(out.String(), "BROKEN  no backend\n") || !strings.Contains(out.String(), "-> look") {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := printTrace(&out, "{{.Hop}}:{{.OK}}", tr); err != nil || out.String() != "name:true\nvip:false\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// fakeEngine knows one task's container.
type fakeEngine struct{}

func (fakeEngine) ContainerInspect(_ context.Context, id string, _ client.ContainerInspectOptions) (client.ContainerInspectResult, error) {
	if id != "c1" {
		return client.ContainerInspectResult{}, errors.New("no such container")
	}
	return client.ContainerInspectResult{Container: container.InspectResponse{Config: &container.Config{Labels: map[string]string{taskLabel: "t1"}}}}, nil
}

func TestContainersAreKnownByTheirTask(t *testing.T) {
	for ref, want := range map[string]string{"c1": "t1", "web.1": "web.1", "10.0.0.2": "10.0.0.2"} {
		if got := taskOf(t.Context(), fakeEngine{}, ref); got != want {
			t.Errorf("%s: %s", ref, got)
		}
	}
}
