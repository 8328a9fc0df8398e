package dispatcher

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
)

// Random changes of nodes; listeners who ask now and then must know what one who
// asks for all is told.
func TestRosterAddsUp(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	s, prop := storetest.New()
	c := newCache(time.Now)
	w := s.Watch(nil)
	defer w.Close()
	storetest.Do(t, s, prop, func(tx *store.Tx) { // there is always a manager
		n := &store.Node{}
		n.ID, n.ManagerStatus = "m", &swarm.ManagerStatus{Addr: "m:2377"}
		tx.Create(n)
	})
	var listeners [3]listener
	for step := range 300 {
		storetest.Do(t, s, prop, func(tx *store.Tx) { changeNode(tx, rng) })
		for len(w.C) > 0 {
			c.apply(<-w.C, newTouched())
		}
		if step == 150 {
			s.View(func(v *store.View) { c.reset(v.Index(), nil) })
		}
		s.View(func(v *store.View) {
			var fresh listener
			fresh.hear(v, newCache(time.Now))
			for i := range listeners {
				if rng.IntN(i+1) > 0 {
					continue
				}
				l := &listeners[i]
				l.hear(v, c)
				same := func(a, b protocol.Node) bool { return a.Hostname == b.Hostname && a.Down == b.Down }
				if !maps.EqualFunc(l.nodes, fresh.nodes, same) || !slices.Equal(l.managers, fresh.managers) {
					t.Fatalf("step %d: listener %d knows %v and %v, it should %v and %v", step, i, l.nodes, l.managers, fresh.nodes, fresh.managers)
				}
			}
		})
	}
}

type listener struct {
	position uint64
	nodes    map[string]protocol.Node
	managers []swarm.Peer
}

func (l *listener) hear(v *store.View, c *cache) {
	var m protocol.Message
	if l.nodes == nil {
		l.nodes = map[string]protocol.Node{}
	}
	l.position = c.roll(v, l.position, &m)
	for _, n := range m.Nodes {
		l.nodes[n.ID] = n
	}
	for _, id := range m.NodesGone {
		delete(l.nodes, id)
	}
	if m.Managers != nil {
		l.managers = m.Managers
	}
}

// changeNode creates, changes or removes a node.
func changeNode(tx *store.Tx, rng *rand.Rand) {
	n := &store.Node{}
	n.ID = fmt.Sprint("n", rng.IntN(10))
	old := tx.Node(n.ID)
	switch {
	case old == nil:
		n.Description.Hostname = n.ID
		if rng.IntN(3) == 0 {
			n.ManagerStatus = &swarm.ManagerStatus{Addr: n.ID + ":2377"}
		}
		tx.Create(n)
	case rng.IntN(3) == 0:
		tx.Remove(old)
	default:
		next := *old
		next.Description.Hostname = fmt.Sprint("host", rng.IntN(3))
		next.Status.State = []swarm.NodeState{swarm.NodeStateReady, swarm.NodeStateDown}[rng.IntN(2)]
		tx.Update(&next)
	}
}

// The news of one node is one entry.
func TestRosterTellsOnlyWhatChanged(t *testing.T) {
	s, prop := storetest.New()
	c := newCache(time.Now)
	w := s.Watch(nil)
	defer w.Close()
	storetest.Do(t, s, prop, func(tx *store.Tx) {
		for i := range 100 {
			n := &store.Node{}
			n.ID = fmt.Sprint("n", i)
			tx.Create(n)
		}
	})
	var first, second protocol.Message
	var at uint64
	s.View(func(v *store.View) { at = c.roll(v, 0, &first) })
	storetest.Do(t, s, prop, func(tx *store.Tx) {
		n := *tx.Node("n7")
		n.Status.State = swarm.NodeStateDown
		tx.Update(&n)
		tx.Remove(tx.Node("n8"))
	})
	for len(w.C) > 0 {
		c.apply(<-w.C, newTouched())
	}
	s.View(func(v *store.View) { c.roll(v, at, &second) })
	if len(first.Nodes) != 100 || len(second.Nodes) != 1 || second.Nodes[0].ID != "n7" || !slices.Equal(second.NodesGone, []string{"n8"}) {
		t.Errorf("first %d nodes, then %+v and without %v", len(first.Nodes), second.Nodes, second.NodesGone)
	}
}
