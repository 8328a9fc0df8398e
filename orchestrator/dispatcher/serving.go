package dispatcher

import (
	"math"

	"github.com/meshd/meshd/orchestrator/store"
)

// Serving says of tasks in a view whether clients everywhere reach them: every node
// that is up and knows a network of theirs has acknowledged a revision in which
// they serve. False also of tasks that began to before this manager watched.
//
// It is the leader's to ask, to whom the others pass acknowledgements on. The
// function that it returns is for the moment of the view only.
func (d *Dispatcher) Serving(v *store.View) func(*store.Task) bool {
	held := map[string]uint64{}
	return func(t *store.Task) bool {
		since, known := d.cache.servesSince(t.ID)
		if !known {
			return false
		}
		for _, n := range d.toldOn(v, t) {
			if _, asked := held[n.ID]; !asked {
				held[n.ID] = d.heldByAll(v, n)
			}
			if held[n.ID] < since {
				return false
			}
		}
		return true
	}
}

// heldByAll is the revision of a network that every subscriber holds.
func (d *Dispatcher) heldByAll(v *store.View, n *store.Network) uint64 {
	least := uint64(math.MaxUint64)
	for _, id := range subscribers(v, n) {
		least = min(least, d.ledger.acked(id, n.ID))
	}
	return least
}
