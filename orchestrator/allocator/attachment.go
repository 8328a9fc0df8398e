package allocator

import (
	"net/netip"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// attachment gives a container that was put on networks by hand an address of each
// family on each: the one it has, else the one it asks for, else a free one. It is
// on a node already, so no scheduler looks at it.
func (b *book) attachment(v state, t *store.Task, now time.Time) (*store.Task, error) {
	used, err := resolve(v, t.Spec.Networks)
	if err != nil {
		return nil, err
	}
	steps := len(b.undo)
	out := *t
	out.NetworksAttachments = nil
	for _, n := range used.overlays {
		addrs, err := b.addrsFor(v, t, n)
		if err != nil {
			b.rewind(steps) // all or nothing
			return nil, err
		}
		a := swarm.NetworkAttachment{Addresses: addrs}
		a.Network.ID = n.ID
		out.NetworksAttachments = append(out.NetworksAttachments, a)
	}
	if tasklife.Before(t.Status.State, swarm.TaskStateAssigned) {
		out.Status = swarm.TaskStatus{Timestamp: now, State: swarm.TaskStateAssigned, Message: "attached"}
	}
	out.Status.Err = ""
	return &out, nil
}

func (b *book) addrsFor(v state, t *store.Task, n *store.Network) ([]netip.Prefix, error) {
	has := slices.Clone(b.claims[t.ID])
	for _, a := range t.Wanted {
		c := claim{n.ID, a}
		other := slices.ContainsFunc(has, func(h claim) bool { return h.network == n.ID && h.addr.Is6() == a.Is6() })
		if other || b.subnet(c) == nil {
			continue
		}
		if _, err := b.takeGiven(v, t.ID, c); err != nil {
			return nil, err
		}
		has = append(has, c)
	}
	return b.addrsOn(t.ID, n, has)
}
