package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/certs/certstest"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
)

// sessions are a manager's, with the nodes' ends in place of streams.
type sessions struct {
	mu    sync.Mutex
	nodes map[string]func([]protocol.Tunnel)
	// missed is called for an invitation of a node without a session; nil: nothing.
	missed func()
}

func (s *sessions) Invite(node string, t protocol.Tunnel) bool {
	s.mu.Lock()
	accept, missed := s.nodes[node], s.missed
	s.mu.Unlock()
	if accept != nil {
		accept([]protocol.Tunnel{t})
	} else if missed != nil {
		missed()
	}
	return accept != nil
}

func (s *sessions) set(node string, accept func([]protocol.Tunnel)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[node] = accept
}

type manager struct {
	addr     string
	sessions *sessions
	hub      *Hub
	down     sync.Map // names of nodes
}

// cluster is a number of managers that know each other, over real TLS.
func cluster(t *testing.T, ca *certs.CA, n int) []*manager {
	t.Helper()
	var all []*manager
	addrs := func() []string {
		var out []string
		for _, m := range all {
			out = append(out, m.addr)
		}
		return out
	}
	for i := range n {
		k := certstest.Keeper(t, ca, t.TempDir(), fmt.Sprint("m", i), certs.RoleManager)
		server := remote.NewServer(remote.Config{Keeper: k})
		if err := server.Listen("127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		client := remote.NewClient(k)
		t.Cleanup(client.Close)
		m := &manager{addr: server.Addr().String(), sessions: &sessions{nodes: map[string]func([]protocol.Tunnel){}}}
		m.hub = NewHub(HubConfig{
			Self: func() string { return m.addr }, Managers: addrs, Sessions: m.sessions, Caller: client,
			Down:     func(node string) bool { _, down := m.down.Load(node); return down },
			Incoming: server.Tunnels(), PeerOf: remote.PeerOf, Logger: slog.New(slog.DiscardHandler),
		})
		m.hub.Register(server)
		run(t, server.Serve)
		run(t, m.hub.Run)
		all = append(all, m)
	}
	return all
}

// run works until the test ends, and must end then without an error.
func run(t *testing.T, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func newNode(t *testing.T, ca *certs.CA, name string, h http.Handler) *Node {
	t.Helper()
	client := remote.NewClient(certstest.Keeper(t, ca, t.TempDir(), name, certs.RoleWorker))
	t.Cleanup(client.Close)
	n := NewNode(NodeConfig{Dial: client.DialTunnel, Handler: h, Logger: slog.New(slog.DiscardHandler)})
	run(t, n.Run)
	return n
}

func newCA(t *testing.T) *certs.CA {
	t.Helper()
	ca, err := certs.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func get(ctx context.Context, m *manager, node, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := m.hub.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s: %s", name, r.URL.Path) })
}

func TestEveryManagerReachesEveryNode(t *testing.T) {
	ca := newCA(t)
	all := cluster(t, ca, 3)
	for i, name := range []string{"n0", "n1"} {
		all[i].sessions.set(name, newNode(t, ca, name, echo(name)).Accept)
	}
	for range 3 { // the second and third use the same connection, or another
		for _, m := range all {
			for _, name := range []string{"n0", "n1"} {
				got, err := get(t.Context(), m, name, "/hello")
				if err != nil || got != name+": /hello" {
					t.Errorf("%s answers %q, %v", name, got, err)
				}
			}
		}
	}
}

func TestUnconnectedNodeFailsAtOnce(t *testing.T) {
	all := cluster(t, newCA(t), 2)
	all[0].down.Store("gone", true)
	_, err := get(t.Context(), all[0], "gone", "/")
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "node gone is not connected") {
		t.Error(err)
	}
}

// A node that begins a new session, since it has something to tell, has none for a moment,
// and what the former one was to bring may be lost with it.
func TestNodeBetweenSessionsIsWaitedFor(t *testing.T) {
	ca := newCA(t)
	m := cluster(t, ca, 1)[0]
	n := newNode(t, ca, "n", echo("n"))
	m.sessions.missed = func() {
		m.sessions.set("n", func([]protocol.Tunnel) { m.sessions.set("n", n.Accept) })
	}
	if got, err := get(t.Context(), m, "n", "/"); err != nil || got != "n: /" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSilentNodeIsGivenUp(t *testing.T) {
	all := cluster(t, newCA(t), 1)
	all[0].sessions.set("deaf", func([]protocol.Tunnel) {})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := get(ctx, all[0], "deaf", "/"); err == nil {
		t.Error("a node that never called answers")
	}
}

// Only the node that was invited counts, whatever number another one says.
func TestOthersCannotAnswerForANode(t *testing.T) {
	ca := newCA(t)
	all := cluster(t, ca, 1)
	thief := newNode(t, ca, "thief", echo("thief"))
	right := newNode(t, ca, "right", echo("right"))
	all[0].sessions.set("right", func(ts []protocol.Tunnel) {
		thief.Accept(ts)
		right.Accept(ts)
	})
	for range 5 {
		all[0].hub.transport.CloseIdleConnections()
		if got, err := get(t.Context(), all[0], "right", "/"); err != nil || got != "right: /" {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestCallEndsOnBothSides(t *testing.T) {
	ca := newCA(t)
	all := cluster(t, ca, 1)
	began, ended := make(chan struct{}), make(chan struct{})
	n := newNode(t, ca, "n", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		close(began)
		<-r.Context().Done()
		close(ended)
	}))
	all[0].sessions.set("n", n.Accept)
	ctx, cancel := context.WithCancel(t.Context())
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		_, _ = get(ctx, all[0], "n", "/") // what it returns depends on who is faster
	}()
	<-began
	cancel()
	<-returned
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("the node goes on answering a call that was cancelled")
	}
}

// A node without power says nothing, not even that it is gone.
func TestCallsEndWithTheirNode(t *testing.T) {
	ca := newCA(t)
	m := cluster(t, ca, 1)[0]
	began, over := make(chan string, 2), make(chan struct{})
	defer close(over)
	silent := func(name string) {
		m.sessions.set(name, newNode(t, ca, name, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			began <- name
			<-over // not the end of the request, which would be answered
		})).Accept)
	}
	silent("cut")
	silent("well")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan string, 2)
	for _, name := range []string{"cut", "well"} {
		go func() {
			if _, err := get(ctx, m, name, "/"); err != nil {
				ended <- name
			}
		}()
		<-began
	}
	m.down.Store("cut", true)
	if got := <-ended; got != "cut" {
		t.Errorf("the call to %s has ended", got)
	}
	open := m.hub.calls()
	for end := time.Now().Add(time.Minute); len(open) > 1 && time.Now().Before(end); open = m.hub.calls() {
		time.Sleep(time.Millisecond) // the caller may hear of the end before the hub has forgotten the call
	}
	if len(open) != 1 || open[0].node != "well" {
		t.Errorf("%d calls are open", len(open))
	}
	cancel()
	<-ended
}

// After an upgrade each side may say that it has said all, and still listen.
func TestUpgradedConnectionClosesByHalves(t *testing.T) {
	ca := newCA(t)
	all := cluster(t, ca, 1)
	n := newNode(t, ca, "n", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		heard, err := io.ReadAll(buf)
		fmt.Fprintf(conn, "heard %q, %v", heard, err)
	}))
	all[0].sessions.set("n", n.Accept)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://n/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}}
	resp, err := all[0].hub.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stream := resp.Body.(interface {
		io.ReadWriter
		CloseWrite() error
	})
	_, err = io.WriteString(stream, "all that there is")
	if err := errors.Join(err, stream.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(stream); err != nil || string(answer) != `heard "all that there is", <nil>` {
		t.Errorf("%q, %v", answer, err)
	}
}
