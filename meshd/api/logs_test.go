package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/logs"
	"github.com/meshd/meshd/orchestrator/store"
)

// written is what tasks wrote.
type written map[string][]logs.Line

func (w written) Logs(_ context.Context, task string, o logs.Options, line func(logs.Line) error) error {
	for _, l := range w[task] {
		if l.Time.Before(o.Since) || l.Stderr && !o.Stderr || !l.Stderr && !o.Stdout {
			continue
		}
		if err := line(l); err != nil {
			return err
		}
	}
	return nil
}

// withLogs makes a service web whose two tasks on node1 wrote something.
func (r *rig) withLogs(w written) {
	r.t.Helper()
	r.do("POST", "/services/create", webSpec).want(201, "")
	service := decode[swarm.Service](r.do("GET", "/services/web", nil)).ID
	for i, id := range []string{"task1", "task2"} {
		o := &store.Task{SpecVersion: 1}
		o.ID, o.ServiceID, o.Slot, o.NodeID, o.DesiredState = id, service, i+1, "node1id", swarm.TaskStateRunning
		o.Status.State = swarm.TaskStateRunning
		r.create(o)
	}
	mux := http.NewServeMux()
	logs.Register(mux, w)
	server := httptest.NewServer(mux)
	r.t.Cleanup(server.Close)
	r.control.nodes = fakeNodes{"node1id": server.Listener.Addr().String()}
}

func someLines() written {
	at := func(second int) time.Time { return time.Date(2026, 5, 1, 12, 0, second, 5, time.UTC) }
	return written{
		"task1": {{Time: at(1), Data: []byte("one\n")}, {Time: at(3), Stderr: true, Attrs: "tag=a", Data: []byte("three\n")}},
		"task2": {{Time: at(2), Data: []byte("two\n")}},
	}
}

func TestLogsAsTheEngineWritesThem(t *testing.T) {
	r := newRig(t)
	r.withLogs(someLines())
	node := "com.docker.swarm.node.id=node1id,com.docker.swarm.service.id="
	service := decode[swarm.Service](r.do("GET", "/services/web", nil)).ID
	for query, want := range map[string]string{
		"stdout=1":                         "\x01\x00\x00\x00\x00\x00\x00\x04one\n\x01\x00\x00\x00\x00\x00\x00\x04two\n",
		"stderr=1":                         "\x02\x00\x00\x00\x00\x00\x00\x06three\n",
		"stdout=1&since=1777636802":        "\x01\x00\x00\x00\x00\x00\x00\x04two\n",
		"stdout=1&since=1777636802.000001": "",
		"stderr=1&timestamps=1":            "\x02\x00\x00\x00\x00\x00\x00\x252026-05-01T12:00:03.000000005Z three\n",
		"stderr=1&details=1":               node + service + ",com.docker.swarm.task.id=task1,tag=a three\n",
	} {
		got := string(r.do("GET", "/services/web/logs?"+query, nil).want(200, "").body)
		if strings.Contains(query, "details") && len(got) > 8 {
			got = got[8:]
		}
		if got != want {
			t.Errorf("%s:\n got %q\nwant %q", query, got, want)
		}
	}
	if got := string(r.do("GET", "/tasks/task2/logs?stdout=1&stderr=1", nil).want(200, "").body); !strings.HasSuffix(got, "\x04two\n") || strings.Contains(got, "one") {
		t.Errorf("the logs of a task: %q", got)
	}
}

func TestBadLogRequests(t *testing.T) {
	r := newRig(t)
	r.withLogs(nil)
	r.do("GET", "/services/web/logs", nil).want(400, "choose at least one stream")
	r.do("GET", "/services/web/logs?stdout=1&tail=x", nil).want(400, "a number of lines")
	r.do("GET", "/services/web/logs?stdout=1&since=yesterday", nil).want(400, "seconds since 1970")
	r.do("GET", "/services/nope/logs?stdout=1", nil).want(404, "service nope not found")
	r.do("GET", "/tasks/nope/logs?stdout=1", nil).want(404, "task nope not found")
}

func TestLogsOfAnUnreachableNode(t *testing.T) {
	r := newRig(t)
	r.withLogs(someLines())
	r.change(func(tx *store.Tx) error {
		task := *tx.Task("task2")
		task.NodeID = "node2id"
		tx.Update(&task)
		return nil
	})
	got := string(r.do("GET", "/services/web/logs?stdout=1", nil).want(200, "").body)
	head, tail, ok := strings.Cut(got, "one\n\x03")
	if !ok || len(head) != 8 || !strings.Contains(tail, "not complete: logs of task task2 on node ") || !strings.Contains(tail, "not connected to any manager") {
		t.Errorf("%q", got)
	}
}

func TestLogsByTheOfficialClient(t *testing.T) {
	for _, binary := range []string{"/usr/local/bin/docker", "/usr/bin/docker"} {
		t.Run(binary, func(t *testing.T) {
			c := newCLI(t, binary)
			c.withLogs(someLines())
			c.want(0, "web.1.task1@|one|two|three", "service", "logs", "web")
			c.want(0, "2026-05-01T12:00:03.000000005Z", "service", "logs", "-t", "web")
			if got := c.run(0, "service", "logs", "--raw", "web"); !strings.Contains(got, "one\ntwo") {
				t.Errorf("%q", got)
			}
			c.want(0, "two", "service", "logs", "task2")
			c.control.nodes = nil
			c.want(1, "not connected to any manager", "service", "logs", "web")
		})
	}
}
