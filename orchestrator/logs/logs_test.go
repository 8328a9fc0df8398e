package logs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
)

// nodes are servers by node ID; the others are not connected.
type nodes struct {
	mu    sync.Mutex
	addrs map[string]string
}

func (n *nodes) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	addr := n.addrs[r.URL.Host]
	n.mu.Unlock()
	if addr == "" {
		return nil, fmt.Errorf("node %s is not connected", r.URL.Host)
	}
	r = r.Clone(r.Context())
	r.URL.Host = addr
	return http.DefaultTransport.RoundTrip(r)
}

func (n *nodes) set(id, addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs[id] = addr
}

// source gives tasks' lines; one that follows waits for more until it ends.
type source map[string]chan Line

func (s source) Logs(ctx context.Context, task string, o Options, line func(Line) error) error {
	for range o.Tail { // a positive one cuts off what was there
		<-s[task]
	}
	for {
		select {
		case l, ok := <-s[task]:
			if !ok {
				return nil
			}
			if l.Attrs == "not yet" { // it does not run: nothing to follow
				return nil
			}
			if l.Data == nil {
				return errors.New("the engine is away")
			}
			if err := line(l); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s source) serve(t *testing.T) string {
	mux := http.NewServeMux()
	Register(mux, s)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// wrote is the log of a task that has ended.
func wrote(seconds ...int) chan Line {
	c := make(chan Line, len(seconds))
	for _, s := range seconds {
		c <- line(s)
	}
	close(c)
	return c
}

func line(second int) Line {
	return Line{Time: time.Unix(int64(second), 0), Data: fmt.Appendf(nil, "%d\n", second)}
}

type world struct {
	t *testing.T
	Collector
	nodes    *nodes
	proposer store.Proposer
}

func newWorld(t *testing.T) *world {
	st, p := storetest.New()
	n := &nodes{addrs: map[string]string{}}
	return &world{t, Collector{Store: st, Nodes: n, Retry: 10 * time.Millisecond}, n, p}
}

func (w *world) add(task, node string, state swarm.TaskState) {
	w.t.Helper()
	err := store.Transact(w.t.Context(), w.Store, w.proposer, func(tx *store.Tx) error {
		o := &store.Task{}
		o.ID, o.NodeID, o.ServiceID, o.Status.State = task, node, "web", state
		tx.Create(o)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func ofWeb(v *store.View) []*store.Task { return v.TasksOfService("web") }

func TestLinesComeByTime(t *testing.T) {
	w := newWorld(t)
	w.add("a", "n1", swarm.TaskStateRunning)
	w.add("b", "n2", swarm.TaskStateFailed)
	w.add("c", "gone", swarm.TaskStateRunning)
	w.add("new", "n1", swarm.TaskStatePreparing) // has no container
	w.nodes.set("n1", source{"a": wrote(1, 4, 5)}.serve(t))
	w.nodes.set("n2", source{"b": wrote(2, 3, 6)}.serve(t))
	var got []string
	err := w.Collect(t.Context(), ofWeb, Options{Stdout: true, Tail: -1}, func(m Message) error {
		if m.Err != nil {
			got = append(got, m.Task.ID+" "+m.Err.Error())
			return nil
		}
		got = append(got, m.Task.ID+" "+string(m.Line.Data))
		return nil
	})
	want := []string{"a 1\n", "b 2\n", "b 3\n", "a 4\n", "a 5\n", "b 6\n", "c node gone is not connected"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestReaderThatStopsEndsAll(t *testing.T) {
	enough := errors.New("enough")
	for _, follow := range []bool{false, true} {
		w := newWorld(t)
		w.add("a", "n1", swarm.TaskStateRunning)
		w.add("b", "n1", swarm.TaskStateRunning)
		endless := make(chan Line, 1) // never closed
		endless <- line(2)
		w.nodes.set("n1", source{"a": wrote(1), "b": endless}.serve(t))
		err := w.Collect(t.Context(), ofWeb, Options{Stdout: true, Tail: -1, Follow: follow}, func(Message) error { return enough })
		if !errors.Is(err, enough) {
			t.Errorf("follow %v: %v", follow, err)
		}
	}
}

// Tasks that start later join; a node that was away is told once and read again.
func TestFollow(t *testing.T) {
	w := newWorld(t)
	b := make(chan Line)
	a := make(chan Line, 2)
	a <- line(-1)
	a <- line(0)
	w.nodes.set("n1", source{"a": a}.serve(t))
	w.add("a", "n1", swarm.TaskStateRunning)
	ctx, cancel := context.WithCancel(t.Context())
	messages, result := make(chan Message), make(chan error, 1)
	go func() {
		result <- w.Collect(ctx, ofWeb, Options{Stdout: true, Tail: 2, Follow: true}, func(m Message) error {
			messages <- m
			return nil
		})
	}()
	send := func(c chan Line, l Line) {
		t.Helper()
		select {
		case c <- l:
		case <-time.After(30 * time.Second):
			t.Fatal("nobody reads the task")
		}
	}
	expect := func(task, text string) {
		t.Helper()
		select {
		case m := <-messages:
			got := string(m.Line.Data)
			if m.Err != nil {
				got = m.Err.Error()
			}
			if m.Task.ID != task || got != text {
				t.Fatalf("%s says %q; want %s, %q", m.Task.ID, got, task, text)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("nothing of %s", task)
		}
	}
	send(a, line(1))
	expect("a", "1\n")
	w.add("b", "n2", swarm.TaskStateRunning)
	expect("b", "node n2 is not connected")
	send(a, line(2))
	expect("a", "2\n")
	w.nodes.set("n2", source{"b": b}.serve(t))
	send(b, line(3))
	expect("b", "3\n")
	send(b, Line{Attrs: "not yet"})
	send(b, line(3))
	expect("b", "3\n")
	send(b, Line{}) // its engine goes away
	expect("b", "the engine is away")
	send(b, line(4))
	expect("b", "4\n")
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// A node that took the request and says no more, as one without power does, is given up; one that beats is waited for.
func TestSilentNodeIsGivenUp(t *testing.T) {
	w := newWorld(t)
	w.Silence = 5 * beat // some are late on a loaded machine
	mute := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(mute.Close)
	slow := make(chan Line)
	go func() {
		<-time.After(w.Silence + 2*beat)
		slow <- line(2)
		close(slow)
	}()
	w.add("a", "n1", swarm.TaskStateRunning)
	w.add("b", "n2", swarm.TaskStateRunning)
	w.nodes.set("n1", mute.Listener.Addr().String())
	w.nodes.set("n2", source{"b": slow}.serve(t))
	var got []string
	err := w.Collect(t.Context(), ofWeb, Options{Stdout: true, Tail: -1}, func(m Message) error {
		got = append(got, fmt.Sprintf("%s %s%v", m.Task.ID, m.Line.Data, m.Err))
		return nil
	})
	if want := []string{"b 2\n<nil>", "a the node does not answer"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestOptionsTravel(t *testing.T) {
	for _, o := range []Options{
		{Stdout: true, Tail: -1}, {Stderr: true, Follow: true, Tail: 7, Since: time.Unix(5, 6).UTC()},
	} {
		r, err := http.NewRequest(http.MethodGet, "http://n/?"+o.query(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseOptions(r.URL.Query()); err != nil || got != o {
			t.Errorf("%+v arrives as %+v, %v", o, got, err)
		}
	}
}
