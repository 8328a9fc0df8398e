package dispatcher

import (
	"cmp"
	"container/list"
	"maps"
	"reflect"
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// roster is what all nodes know of each other, in the order in which it changed: a
// session is told what came after its position, so that the news of one node is
// one entry for each of a thousand others, and not a thousand.
type roster struct {
	// position counts the changes.
	position uint64
	entries  map[string]*list.Element // of order, by node
	order    *list.List               // of listed, oldest change first
	managers []swarm.Peer
	// keys are those of the nodes' gossip, the one in use first.
	keys [][]byte
	// trust is what their certificates should be like.
	trust *protocol.Trust
	// epoch is that of the nodes' WireGuard keys.
	epoch uint64
	// managersAt, keysAt, trustAt and epochAt are where these changed last.
	managersAt, keysAt, trustAt, epochAt uint64
	// stale nodes are to be looked at again; all: every one, the keys and the trust.
	stale map[string]bool
	all   bool
}

// listed is a node at its position; one that is gone stays as such.
type listed struct {
	id   string
	node protocol.Node
	gone bool
	at   uint64
}

func newRoster() *roster {
	return &roster{entries: map[string]*list.Element{}, order: list.New(), stale: map[string]bool{}, all: true}
}

// refresh takes in what was marked.
func (r *roster) refresh(v *store.View) {
	if !r.all && len(r.stale) == 0 {
		return
	}
	if r.all {
		for id := range r.entries {
			r.stale[id] = true
		}
		for _, n := range v.Nodes() {
			r.stale[n.ID] = true
		}
	}
	r.position++
	for _, id := range slices.Sorted(maps.Keys(r.stale)) {
		r.look(id, v.Node(id))
	}
	if peers := managers(v); !slices.Equal(peers, r.managers) {
		r.managers, r.managersAt = peers, r.position
	}
	if keys := gossipKeys(v.Cluster()); !sameKeys(keys, r.keys) {
		r.keys, r.keysAt = keys, r.position
	}
	if trust := trust(v.Cluster()); !reflect.DeepEqual(trust, r.trust) {
		r.trust, r.trustAt = trust, r.position
	}
	if epoch := epochOf(v.Cluster()); epoch != r.epoch || r.epochAt == 0 && v.Cluster() != nil {
		r.epoch, r.epochAt = epoch, r.position
	}
	clear(r.stale)
	r.all = false
}

func (r *roster) look(id string, n *store.Node) {
	now := listed{id: id, gone: n == nil, at: r.position}
	if n != nil {
		now.node = member(n)
	}
	e := r.entries[id]
	if e == nil {
		if !now.gone {
			r.entries[id] = r.order.PushBack(now)
		}
		return
	}
	if old := e.Value.(listed); old.gone != now.gone || !reflect.DeepEqual(old.node, now.node) {
		e.Value = now
		r.order.MoveToBack(e)
	}
}

// since adds to a message what changed after a position; zero is before all.
func (r *roster) since(position uint64, m *protocol.Message) {
	for e := r.order.Back(); e != nil && e.Value.(listed).at > position; e = e.Prev() {
		switch l := e.Value.(listed); {
		case !l.gone:
			m.Nodes = append(m.Nodes, l.node)
		case position > 0:
			m.NodesGone = append(m.NodesGone, l.id)
		}
	}
	slices.SortFunc(m.Nodes, func(a, b protocol.Node) int { return cmp.Compare(a.ID, b.ID) })
	if r.managersAt > position {
		m.Managers = r.managers
	}
	if r.keysAt > position {
		m.GossipKeys = r.keys
	}
	if r.trustAt > position {
		m.Trust = r.trust
	}
	if r.epochAt > position {
		m.Encryption = &protocol.Encryption{Epoch: r.epoch}
	}
}

// managers are those whose control port is known.
func managers(v *store.View) (out []swarm.Peer) {
	for _, n := range v.Nodes() {
		if addr := peerAddr(n); addr != "" {
			out = append(out, swarm.Peer{NodeID: n.ID, Addr: addr})
		}
	}
	return out
}
