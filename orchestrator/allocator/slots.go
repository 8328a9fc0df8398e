package allocator

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// Slots of services with the label mesh.stable-ip keep their addresses when their
// task is replaced. The last task that had addresses holds them for its slot, even
// when it has ended or was forgotten, until its successor takes them over; only
// what ends the slot (a scale-down, the service's end, the label's) frees them.
//
// No two tasks have an address at once: the successor waits until the holder has
// stopped. One on a node that is down, which may run still but is reached by
// nobody, loses its addresses in the store with the same batch.

// place is a slot of a service, by number or, of a global one, by node.
type place struct {
	service string
	slot    int
	node    string
}

func placeOf(t *store.Task) place {
	p := place{service: t.ServiceID, slot: t.Slot}
	if t.Slot == 0 {
		p.node = t.NodeID
	}
	return p
}

// holder is the newest task of a slot that has addresses.
type holder struct {
	task string
	made time.Time
	// over says that it has ended, or is not in the store any more.
	over bool
}

// waiting is the reason of a task that will get its address by itself, shortly.
type waiting string

func (w waiting) Error() string { return string(w) }

// see takes in a stored task, gone if it was removed.
func (b *book) see(t *store.Task, gone bool) error {
	if t.ServiceID == "" {
		if gone || tasklife.Ended(t) {
			return b.hold(t.ID, nil)
		}
		return b.hold(t.ID, claimsOfTask(t))
	}
	over, end := gone || tasklife.Ended(t), t.DesiredState == swarm.TaskStateRemove
	want, at := claimsOfTask(t), placeOf(t)
	h := b.slots[at]
	newest := h.task == "" || h.task == t.ID ||
		cmp.Or(t.CreatedAt.Compare(h.made), cmp.Compare(t.ID, h.task)) > 0
	stable := b.stable[t.ServiceID]
	switch {
	case over && end && newest:
		want = nil
		if h.task == t.ID || h.over { // nobody will come for the former one's
			delete(b.slots, at)
			if err := b.hold(h.task, nil); err != nil {
				return err
			}
		}
	case newest && (len(want) > 0 || len(b.claims[t.ID]) > 0):
		b.freed = b.freed || stable && over && !h.over
		if err := b.succeed(at, t, over, want); err != nil {
			return err
		}
		switch {
		case gone && stable:
			want = b.claims[t.ID]
		case over && !stable:
			want = nil
		}
	default:
		// Behind the holder: what it had is the holder's now, or free.
		want = slices.DeleteFunc(want, func(c claim) bool { return over || b.owners[c] == h.task && h.task != t.ID })
	}
	return b.hold(t.ID, want)
}

// succeed makes a task the holder of its slot.
func (b *book) succeed(at place, t *store.Task, over bool, has []claim) error {
	former := b.slots[at]
	b.slots[at] = holder{t.ID, t.CreatedAt, over}
	if former.task == t.ID || !b.stable[at.service] {
		return nil
	}
	b.handOver(former.task, t.ID, has)
	if former.over {
		return b.hold(former.task, nil) // what the slot does not need any more
	}
	return nil
}

// settle notes whether a service's slots keep their addresses.
func (b *book) settle(id string, stable bool) {
	if stable {
		b.stable[id] = true
		return
	}
	if !b.stable[id] {
		return
	}
	delete(b.stable, id)
	for at, h := range b.slots {
		if at.service == id && h.over {
			_ = b.hold(h.task, nil) // it only gives up
			delete(b.slots, at)
		}
	}
}

// handOver moves those addresses that one task has to another.
func (b *book) handOver(from, to string, what []claim) {
	var left []claim
	for _, c := range b.claims[from] {
		if slices.Contains(what, c) {
			b.claims[to] = append(b.claims[to], c)
			b.owners[c] = to
		} else {
			left = append(left, c)
		}
	}
	if b.claims[from] = left; left == nil {
		delete(b.claims, from)
	}
}

// inherit gives a task the addresses of its slot. lost is the former task without
// its addresses, if it cannot say itself that it has ended; nil otherwise.
func (b *book) inherit(v state, t *store.Task) (lost *store.Task, err error) {
	at := placeOf(t)
	h := b.slots[at]
	if !b.stable[t.ServiceID] || h.task == "" || h.task == t.ID {
		return nil, nil
	}
	if old := v.Task(h.task); old != nil && !tasklife.Ended(old) {
		n := v.Node(old.NodeID)
		switch {
		case tasklife.Wanted(old):
			return nil, nil // it is to go on: the new one gets addresses of its own
		case !tasklife.Placed(old):
		case n == nil || n.Status.State == swarm.NodeStateDown:
			next := *old
			next.NetworksAttachments = nil
			lost = &next
		default:
			return nil, waiting(fmt.Sprintf("waits for %s to stop, whose addresses it gets (label %s)", nameOf(v, h.task), labelStable))
		}
	}
	given := slices.Clone(b.claims[h.task])
	b.handOver(h.task, t.ID, given)
	b.slots[at] = holder{task: t.ID, made: t.CreatedAt}
	b.undo = append(b.undo, func() {
		b.handOver(t.ID, h.task, given)
		b.slots[at] = h
	})
	return lost, nil
}
