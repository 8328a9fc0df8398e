package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/meshd/observe"
	"github.com/meshd/meshd/orchestrator/remote"
)

// fakeObserver answers what it was asked.
type fakeObserver struct{}

func (fakeObserver) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "meshd_up 1\n") })
}

func (fakeObserver) Check(context.Context) (observe.Report, error) {
	return observe.Report{Node: "node1id", Differences: []observe.Difference{{What: "route"}}}, nil
}

func (fakeObserver) Flows(_ context.Context, service string, all bool) ([]observe.Flow, error) {
	if all {
		service += " and closed ones"
	}
	return []observe.Flow{{Service: service}}, nil
}

func (fakeObserver) Trace(_ context.Context, from, to string) (observe.Trace, error) {
	if from == "nobody" {
		return observe.Trace{}, remote.Errorf(errdefs.ErrNotFound, "no container nobody")
	}
	return observe.Trace{From: from, To: to}, nil
}

func TestMeshRoutes(t *testing.T) {
	r := newRig(t)
	get := func(path string, v any) (int, string) {
		t.Helper()
		resp, err := r.client.Get("http://meshd" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if v != nil {
			if err := json.Unmarshal(body, v); err != nil {
				t.Errorf("%s: %v: %s", path, err, body)
			}
		}
		return resp.StatusCode, string(body)
	}
	if status, body := get("/metrics", nil); status != http.StatusOK || body != "meshd_up 1\n" {
		t.Errorf("%d %s", status, body)
	}
	var report observe.Report
	if status, _ := get("/v1.41/mesh/net/check", &report); status != http.StatusOK || report.Node != "node1id" || len(report.Differences) != 1 {
		t.Errorf("%d %+v", status, report)
	}
	var lags observe.Lags
	if status, _ := get("/mesh/net/lags", &lags); status != http.StatusOK || len(lags.Watched) != 1 || len(lags.Lags) != 1 || lags.Lags[0].Held != 3 {
		t.Errorf("%d %+v", status, lags)
	}
	resp, err := r.client.Post("http://meshd/mesh/shutdown", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent || !r.node.off {
		t.Errorf("shutdown: %s", resp.Status)
	}
	var flows []observe.Flow
	if status, _ := get("/mesh/net/flows?service=web&all=1", &flows); status != http.StatusOK || flows[0].Service != "web and closed ones" {
		t.Errorf("%d %+v", status, flows)
	}
	var trace observe.Trace
	if status, _ := get("/mesh/net/trace?from=a&to=b:80", &trace); status != http.StatusOK || trace.From != "a" || trace.To != "b:80" {
		t.Errorf("%d %+v", status, trace)
	}
	if status, body := get("/mesh/net/trace?from=nobody&to=b", nil); status != http.StatusNotFound || !strings.Contains(body, `"message":"no container nobody"`) {
		t.Errorf("%d %s", status, body)
	}
	if status, body := get("/mesh/net/trace?from=a", nil); status != http.StatusBadRequest {
		t.Errorf("%d %s", status, body)
	}
}
