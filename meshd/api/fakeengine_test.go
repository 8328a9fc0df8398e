package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
)

// diskBefore is the disk usage that it tells.
const diskBefore = `{"LayersSize":100,
	"Images":[{"Id":"i1","Containers":1,"Size":60,"SharedSize":10},{"Id":"i2","Containers":0,"Size":50,"SharedSize":10},{"Id":"i3","Containers":-1,"Size":9}],
	"Containers":[{"Id":"c1","State":"running","SizeRw":3},{"Id":"c2","State":"exited","SizeRw":4}],
	"Volumes":[{"Name":"v1","UsageData":{"RefCount":1,"Size":7}},{"Name":"v2","UsageData":{"RefCount":0,"Size":8}},{"Name":"v3","UsageData":{"RefCount":0,"Size":-1}},{"Name":"v4"}],
	"BuildCache":[{"ID":"b1","InUse":true,"Size":1},{"ID":"b2","Size":2},{"ID":"b3","Shared":true,"Size":60}]}`

// fakeEngine is a Docker Engine that speaks 1.25 to 1.41 and refuses others.
type fakeEngine struct {
	socket string
	mu     sync.Mutex
	seen   []string // method, path and query as they arrived
	bodies []string
	// networks are the answers of /networks, by name.
	networks []map[string]any
	// containers are what their inspections answer, by reference.
	containers map[string]string
	events     chan string
	// past are events that it keeps.
	past []string
	// registry answers /distribution; nil: it never does.
	registry func(w http.ResponseWriter)
	// images are the names that the engine has.
	images map[string]bool
}

func newFakeEngine(t testing.TB) *fakeEngine {
	t.Helper()
	e := &fakeEngine{socket: filepath.Join(t.TempDir(), "docker.sock"), events: make(chan string, 16)}
	e.networks = []map[string]any{
		{"Name": "bridge", "Id": "bridgeid", "Driver": "bridge", "Scope": "local", "Labels": map[string]string{}},
		{"Name": "mine", "Id": "mineid", "Driver": "bridge", "Scope": "local", "Labels": map[string]string{}},
		{"Name": "ingress", "Id": "localingressid", "Driver": "meshd", "Scope": "local", "Labels": map[string]string{"mesh.network": "ingressid"}, "Options": map[string]string{"mesh.vni": "4096"}},
	}
	serve(t, e.socket, func(ctx context.Context, l net.Listener) error {
		srv := &http.Server{Handler: e, BaseContext: func(net.Listener) context.Context { return ctx }}
		go func() { <-ctx.Done(); _ = srv.Close() }()
		_ = srv.Serve(l)
		return nil
	})
	return e
}

func (e *fakeEngine) requests() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.seen...)
}

func (e *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.seen = append(e.seen, r.Method+" "+r.URL.RequestURI())
	e.mu.Unlock()
	w.Header().Set("Api-Version", "1.41")
	w.Header().Set("Server", "Docker/20.10.24 (linux)")
	path := r.URL.EscapedPath()
	if v, rest, ok := splitVersion(path); ok {
		if (apiVersion{1, 41}).less(v) {
			reply(w, http.StatusBadRequest, map[string]string{"message": "client version " + v.String() + " is too new"})
			return
		}
		path = rest
	}
	switch {
	case path == "/_ping":
		w.Header().Set("Builder-Version", "2")
		_, _ = io.WriteString(w, "OK")
	case path == "/version":
		reply(w, http.StatusOK, map[string]any{"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.25", "Os": "linux", "Arch": "amd64",
			"Components": []map[string]any{{"Name": "Engine", "Version": "20.10.24"}}})
	case path == "/info":
		reply(w, http.StatusOK, map[string]any{"ID": "ENGINE", "Name": "node1", "Containers": 3, "Swarm": map[string]any{"LocalNodeState": "inactive"}})
	case path == "/networks":
		reply(w, http.StatusOK, e.list(r))
	case strings.HasPrefix(path, "/networks/") && r.Method == http.MethodGet:
		e.network(w, strings.TrimPrefix(path, "/networks/"))
	case path == "/networks/prune":
		reply(w, http.StatusOK, map[string]any{"NetworksDeleted": []string{"mine"}})
	case path == "/system/df":
		_, _ = io.WriteString(w, diskBefore)
	case path == "/events":
		e.stream(w, r)
	case strings.HasPrefix(path, "/distribution/"):
		e.distribution(w, r)
	case strings.HasPrefix(path, "/images/"):
		if name := strings.TrimSuffix(strings.TrimPrefix(path, "/images/"), "/json"); !e.images[name] {
			reply(w, http.StatusNotFound, map[string]string{"message": "No such image: " + name})
			return
		}
		reply(w, http.StatusOK, map[string]any{"Id": "sha256:1"})
	case path == "/containers/json":
		fmt.Fprintf(w, `[{"Id":"c1","SizeRw":12345678901234567,"Filters":%q,"NetworkSettings":{"Networks":{"ingress":{"NetworkID":"localingressid","IPAddress":"10.255.0.9"},"bridge":{"NetworkID":"bridgeid"}}}}]`, r.URL.Query().Get("filters"))
	case strings.HasPrefix(path, "/containers/") && e.containers[strings.TrimSuffix(strings.TrimPrefix(path, "/containers/"), "/json")] != "":
		_, _ = io.WriteString(w, e.containers[strings.TrimSuffix(strings.TrimPrefix(path, "/containers/"), "/json")])
	case path == "/containers/c1/json":
		fmt.Fprint(w, `{"Id":"c1","Config":{"Labels":{"x":"\"NetworkID\":\"localingressid\""}},"NetworkSettings":{"Networks":{"ingress":{"NetworkID":"localingressid"}}}}`)
	case strings.HasPrefix(path, "/exec/"):
		e.hijack(w)
	case path == "/containers/create", strings.HasPrefix(path, "/echo/"), strings.HasPrefix(path, "/networks/"):
		body, _ := io.ReadAll(r.Body)
		e.mu.Lock()
		e.bodies = append(e.bodies, string(body))
		e.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		if path == "/containers/create" {
			fmt.Fprintf(w, `{"Id":"newid","Asked":"%s %s %d"}`, r.Method, r.URL.RequestURI(), len(body))
			return
		}
		fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.RequestURI(), len(body))
	default:
		reply(w, http.StatusNotFound, map[string]string{"message": "page not found"})
	}
}

func (e *fakeEngine) distribution(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	answer := e.registry
	e.mu.Unlock()
	if answer == nil {
		<-r.Context().Done()
		return
	}
	answer(w)
}

func (e *fakeEngine) list(r *http.Request) []map[string]any {
	labelled := strings.Contains(r.URL.Query().Get("filters"), meshLabel)
	out := []map[string]any{}
	for _, n := range e.networks {
		if _, mesh := n["Labels"].(map[string]string)[meshLabel]; !labelled || mesh {
			out = append(out, n)
		}
	}
	return out
}

func (e *fakeEngine) network(w http.ResponseWriter, ref string) {
	for _, n := range e.networks {
		if n["Name"] == ref || n["Id"] == ref {
			reply(w, http.StatusOK, n)
			return
		}
	}
	reply(w, http.StatusNotFound, map[string]string{"message": "network " + ref + " not found"})
}

// stream sends what the test puts into events.
func (e *fakeEngine) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	asked, err := readSpan(r)
	if err != nil {
		panic(err)
	}
	for _, text := range e.past {
		var m events.Message
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			panic(err)
		}
		if asked != (span{}) && asked.holds(m.TimeNano) {
			_, _ = io.WriteString(w, text+"\n")
		}
	}
	_ = flush.Flush()
	if !asked.until.IsZero() && asked.until.Before(time.Now()) {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case text, open := <-e.events:
			if !open {
				return
			}
			_ = json.NewEncoder(w).Encode(json.RawMessage(text))
			_ = flush.Flush()
		}
	}
}

// hijack upgrades the connection as exec does: it greets, reads until the client
// closes its half, and answers with what it got in capitals.
func (e *fakeEngine) hijack(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello\n")
	in, _ := io.ReadAll(conn)
	_, _ = io.WriteString(conn, strings.ToUpper(string(in)))
}
