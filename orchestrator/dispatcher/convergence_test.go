package dispatcher

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// replica is what an agent makes of its messages.
type replica struct {
	tasks    map[string]swarm.TaskState // desired
	networks map[string]protocol.Network
}

func newReplica() *replica {
	return &replica{tasks: map[string]swarm.TaskState{}, networks: map[string]protocol.Network{}}
}

func (r *replica) apply(t *testing.T, m *protocol.Message) {
	t.Helper()
	if m.Tasks != nil {
		if m.Tasks.Full {
			clear(r.tasks)
		}
		for _, a := range m.Tasks.Set {
			r.tasks[a.Task.ID] = a.Task.DesiredState
		}
		for _, id := range m.Tasks.Remove {
			delete(r.tasks, id)
		}
	}
	if m.Tasks != nil && m.Tasks.Full {
		clear(r.networks)
	}
	for _, c := range m.Networks {
		n, ok := c.On(r.networks[c.ID])
		if !ok {
			t.Fatalf("%s at revision %d got a change from %d to %d", c.ID, r.networks[c.ID].Revision, c.From, c.Revision)
		}
		r.networks[c.ID] = n
	}
	for _, id := range m.NetworksGone {
		delete(r.networks, id)
	}
}

// print shows a network without its revision, in a form to compare.
func print(t *testing.T, n protocol.Network) string {
	t.Helper()
	n.Revision = 0
	data, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestRevisionsAreHonest plays random changes to a session and checks each
// network that it is sent: it is the state at its revision or a later one, never
// an earlier one, for acknowledgements rest on that; revisions rise; and in the
// end the node knows exactly what it should.
func TestRevisionsAreHonest(t *testing.T) {
	const node, steps = "n1", 400
	w := newWorld(t)
	d := w.start(Config{Coalesce: time.Millisecond})
	a := connect(t, d, node)
	rng := newRand(t)
	history := map[string]map[uint64][]string{"mesh": {}, "user": {}}
	note := func() {
		w.store.View(func(v *store.View) {
			for id := range history {
				at := []string{}
				for _, part := range parts(oracle(v, v.Network(id), node)) {
					at = append(at, print(t, part))
				}
				history[id][v.Index()] = at
			}
		})
	}
	note()
	var received []*protocol.Message
	for step := range steps {
		w.change(func(tx *store.Tx) { changeSomething(tx, rng, step) })
		note()
		select {
		case m := <-a.messages:
			received = append(received, m)
		default:
		}
	}
	last := w.index()
	r := newReplica()
	revisions := map[string]uint64{}
	check := func(m *protocol.Message) {
		t.Helper()
		before := keys(r.networks)
		r.apply(t, m)
		for _, c := range m.Networks {
			n := r.networks[c.ID]
			if n.Revision <= revisions[n.ID] && slices.Contains(before, n.ID) {
				t.Errorf("%s: revision %d after %d", n.ID, n.Revision, revisions[n.ID])
			}
			revisions[n.ID] = n.Revision
			for _, part := range parts(n) {
				if !somewhere(history[n.ID], n.Revision, last, print(t, part)) {
					t.Fatalf("%s at revision %d has what was not true then or later:\n%s", n.ID, n.Revision, print(t, part))
				}
			}
		}
	}
	for _, m := range received {
		check(m)
	}
	deadline := time.After(time.Minute)
	for !w.agrees(t, r, node) {
		select {
		case m := <-a.messages:
			check(m)
		case <-deadline:
			t.Fatalf("the node ends with %+v", r)
		}
	}
}

// parts are what must have been true together: each service and endpoint by
// itself, for what a message brings may be newer than what stays.
func parts(n protocol.Network) []protocol.Network {
	bare := n
	bare.Services, bare.Endpoints = nil, nil
	out := []protocol.Network{bare}
	for _, s := range n.Services {
		s.Ports = nil // told for what publishes only; the other part may be newer
		one := bare
		one.Services = []protocol.Service{s}
		out = append(out, one)
	}
	for _, e := range n.Endpoints {
		one := bare
		one.Endpoints = []protocol.Endpoint{e}
		out = append(out, one)
	}
	return out
}

func keys(m map[string]protocol.Network) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	return out
}

// somewhere says whether a network looked so at an index from the first on.
// Indexes at which nothing was noted did not change it.
func somewhere(history map[uint64][]string, first, last uint64, want string) bool {
	for first > 0 && history[first] == nil {
		first--
	}
	for i := first; i <= last; i++ {
		if slices.Contains(history[i], want) {
			return true
		}
	}
	return false
}

func (w *world) agrees(t *testing.T, r *replica, node string) (ok bool) {
	w.store.View(func(v *store.View) { ok = agree(t, v, r, node) })
	return ok
}

// agree says whether a node knows what it should.
func agree(t *testing.T, v *store.View, r *replica, node string) bool {
	want := oracles(v, node)
	ok := len(want) == len(r.networks)
	for _, n := range want {
		ok = ok && print(t, n) == print(t, r.networks[n.ID])
	}
	tasks := 0
	for _, x := range v.TasksOnNode(node) {
		if assigned(x) {
			tasks++
			ok = ok && r.tasks[x.ID] == x.DesiredState
		}
	}
	return ok && tasks == len(r.tasks)
}
