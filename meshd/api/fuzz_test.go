package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
)

// FuzzRequests sends any method, path, query, body and credentials to the whole router:
// no handler panics, and a refusal of the swarm's side is always Docker's {"message"}.
func FuzzRequests(f *testing.F) {
	for _, c := range theWalk() {
		method, path, _ := strings.Cut(c.request, " ")
		path, query, _ := strings.Cut(path, "?")
		f.Add(method, "/v1.44"+path, strings.NewReplacer("{v:", "1{", "{id:", "x{").Replace(query), c.body, "")
	}
	for _, extra := range []struct{ method, path, query, body, auth string }{
		{"GET", "/v1.9999999999999999999/services", "", "", ""}, {"GET", "/v/services", "", "", ""}, {"GET", "//services//", "%zz=1;&", "", ""},
		{"GET", "/services/%2e%2e%2f", "filters=%7B", "", ""}, {"GET", "/mesh/nodes/x/v1.41/exec/e/json", "", "", ""}, {"GET", "/mesh/tasks/t/explain", "", "", ""},
		{"POST", "/services/create", "", `{"Name":"f","TaskTemplate":{"ContainerSpec":{"Image":"i","Secrets":[null],"Configs":[null]},"Networks":[{}],"Placement":{"Preferences":[{}]}},"Mode":{"ReplicatedJob":{}},"EndpointSpec":{"Ports":[{}]}}`, "e30="},
		{"POST", "/containers/create", "name=x", `{"HostConfig":{"NetworkMode":"ov","Mounts":[null]},"NetworkingConfig":{"EndpointsConfig":{"ov":null}}}`, ""},
		{"POST", "/networks/create", "", `{"Name":"n","Driver":"overlay","IPAM":{"Config":[{"Subnet":"0.0.0.0/0"}]}}`, ""}, {"POST", "/networks/ov/connect", "", `{"Container":"c1","EndpointConfig":null}`, ""},
		{"POST", "/swarm/init", "", `{"ListenAddr":"[::","DefaultAddrPool":["1.2.3.4/99"]}`, ""}, {"GET", "/events", "since=1e9&until=-1", "", ""},
		{"CONNECT", "", "", "", ""}, {"OPTIONS", "*", "", "", ""},
	} {
		f.Add(extra.method, extra.path, extra.query, extra.body, extra.auth)
	}
	noLeak(f)
	rig := newRig(f)
	rig.engine.registry = func(w http.ResponseWriter) {
		reply(w, http.StatusNotFound, map[string]string{"message": "no such image"})
	}
	rig.node.plan = planOf("ov")
	f.Fuzz(func(t *testing.T, method, path, query, body, auth string) {
		r, err := http.NewRequest(method, "http://docker", strings.NewReader(body))
		if err != nil {
			t.Skip("no server would hand this to a handler")
		}
		if r.URL, err = r.URL.Parse(path); err != nil || r.URL.Host != "docker" {
			t.Skip("no path")
		}
		r.URL.RawQuery = query
		r.Header.Set("X-Registry-Auth", auth)
		answerAny(t, rig.server, r)
	})
}

// answerAny has a server answer one request, streams for a moment.
func answerAny(t *testing.T, s *Server, r *http.Request) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r.WithContext(ctx))
	body := w.Body.Bytes()
	if bytes.Contains(body, []byte("internal error of meshd")) {
		t.Fatalf("%s %s: %s", r.Method, r.URL, body)
	}
	var m struct{ Message string }
	_, rest, _ := splitVersion(r.URL.Path)
	first, _, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	if owned[first] && w.Code >= http.StatusBadRequest && r.Method != http.MethodHead && (json.Unmarshal(body, &m) != nil || m.Message == "") {
		t.Fatalf("%s %s: %d %q is no refusal", r.Method, r.URL, w.Code, body)
	}
}

// noLeak has the goroutines counted when all else of the test has been taken down.
func noLeak(t testing.TB) {
	base := runtime.NumGoroutine()
	t.Cleanup(func() {
		left := 0
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if left = runtime.NumGoroutine() - base; left <= 0 {
				return
			}
		}
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines are left:\n%s", left, stacks[:runtime.Stack(stacks, true)])
	})
}
