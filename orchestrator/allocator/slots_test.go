package allocator

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// change alters a task.
func (w *world) change(id string, fn func(*store.Task)) {
	w.Helper()
	w.do(func(tx *store.Tx) {
		t := *tx.Task(id)
		fn(&t)
		tx.Update(&t)
	})
}

// start puts a task on a node and runs it there.
func (w *world) runOn(id, node string) {
	w.Helper()
	w.change(id, func(t *store.Task) { t.NodeID, t.Status.State = node, swarm.TaskStateRunning })
}

func stopping(t *store.Task) { t.DesiredState = swarm.TaskStateShutdown }
func removing(t *store.Task) { t.DesiredState = swarm.TaskStateRemove }
func stopped(t *store.Task)  { t.Status.State = swarm.TaskStateShutdown }

// next makes the successor of a slot's task.
func (w *world) next(id, service string, slot int) {
	w.Helper()
	time.Sleep(time.Second) // of the bubble
	t := &store.Task{SpecVersion: 1}
	t.ID, t.ServiceID, t.Slot = id, service, slot
	t.DesiredState, t.Status.State = swarm.TaskStateReady, swarm.TaskStateNew
	w.create(t)
}

// addrs are a task's addresses without the mesh network's; empty while it waits.
func (w *world) addrs(id string) (s string) {
	w.view(func(v *store.View) {
		if t := v.Task(id); t != nil && len(t.NetworksAttachments) > 1 {
			s = fmt.Sprint(t.NetworksAttachments[1].Addresses)
		}
	})
	return s
}

func (w *world) wantAddrs(id, want string) {
	w.Helper()
	if got := w.addrs(id); got != want {
		w.Errorf("%s has %q, want %q", id, got, want)
	}
}

// stableWorld has a service whose slots keep their addresses, with two tasks on
// two nodes.
func stableWorld(t *testing.T, fn func(w *world, first, second string)) {
	inWorld(t, func(w *world) {
		w.create(node("n1"), node("n2"), net("front", "10.7.0.0/24"))
		w.service("db", []string{"front"})
		w.relabel("db", labelStable, "true")
		w.tasks("db", 1, 2)
		w.runOn("db.0001", "n1")
		w.runOn("db.0002", "n2")
		fn(w, w.addrs("db.0001"), w.addrs("db.0002"))
	})
}

func node(id string) *store.Node {
	n := &store.Node{}
	n.ID, n.Status.State = id, swarm.NodeStateReady
	return n
}

func TestSlotKeepsItsAddress(t *testing.T) {
	stableWorld(t, func(w *world, first, second string) {
		w.change("db.0001", stopping)
		w.next("next", "db", 1)
		w.wantAddrs("next", "")
		w.view(func(v *store.View) {
			const want = "waits for task db.1 (db.0001) to stop, whose addresses it gets (label mesh.stable-ip)"
			if s := v.Task("next").Status; s.Err != want {
				t.Errorf("status %+v", s)
			}
		})
		w.change("db.0001", stopped)
		w.wantAddrs("next", first)
		w.wantAddrs("db.0002", second)
		// History that goes takes nothing with it.
		w.do(func(tx *store.Tx) { tx.Remove(tx.Task("db.0001")) })
		w.next("other", "db", 3)
		if a := w.addrs("other"); a == first || a == "" {
			t.Errorf("another slot has %s", a)
		}
		// A failure: the slot's address waits for the next task, whoever else comes.
		w.change("next", func(t *store.Task) { t.Status.State = swarm.TaskStateFailed })
		w.relabel("db", labelStable, "true")
		w.service("many", []string{"front"})
		w.tasks("many", 1, 300)
		w.next("third", "db", 1)
		w.wantAddrs("third", first)
	})
}

// A task that was given its slot's address and never ran hands it on.
func TestSlotKeepsItsAddressOverTasksThatNeverRan(t *testing.T) {
	stableWorld(t, func(w *world, first, _ string) {
		w.change("db.0001", func(t *store.Task) { stopping(t); stopped(t) })
		w.next("pending", "db", 1)
		w.wantAddrs("pending", first)
		w.change("pending", stopping)
		w.do(func(tx *store.Tx) { tx.Remove(tx.Task("pending")) })
		w.service("many", []string{"front"})
		w.tasks("many", 1, 300)
		w.next("last", "db", 1)
		w.wantAddrs("last", first)
	})
}

func TestSlotOnALostNode(t *testing.T) {
	stableWorld(t, func(w *world, first, _ string) {
		w.change("db.0001", stopping)
		w.next("next", "db", 1)
		w.wantAddrs("next", "")
		w.do(func(tx *store.Tx) {
			n := *tx.Node("n1")
			n.Status.State = swarm.NodeStateDown
			tx.Update(&n)
		})
		w.wantAddrs("next", first)
		w.wantAddrs("db.0001", "") // or two would have it
		w.change("db.0001", stopped)
		w.change("next", stopping)
		w.change("next", stopped)
		w.next("third", "db", 1)
		w.wantAddrs("third", first)
	})
}

func TestSlotsThatEndFreeTheirAddresses(t *testing.T) {
	stableWorld(t, func(w *world, first, second string) {
		w.change("db.0001", func(t *store.Task) { stopping(t); stopped(t) })
		w.change("db.0002", removing) // scaled down
		w.change("db.0002", stopped)
		w.do(func(tx *store.Tx) { tx.Remove(tx.Task("db.0002")) })
		w.service("many", []string{"front"})
		w.tasks("many", 1, 300)
		has := func(addr string) (yes bool) {
			w.view(func(v *store.View) {
				for _, t := range v.TasksOfService("many") {
					yes = yes || len(t.NetworksAttachments) > 1 && fmt.Sprint(t.NetworksAttachments[1].Addresses) == addr
				}
			})
			return yes
		}
		if has(first) || !has(second) {
			t.Errorf("first %v, second %v", has(first), has(second))
		}
		w.relabel("db", labelStable, "false")
		if !has(first) {
			t.Error("without the label the slot's address is free")
		}
	})
}

func TestNewLeaderKeepsSlots(t *testing.T) {
	stableWorld(t, func(w *world, first, second string) {
		w.change("db.0001", func(t *store.Task) { stopping(t); stopped(t) })
		w.next("a.next", "db", 1) // its ID comes before its predecessor's
		w.runOn("a.next", "n1")
		w.change("db.0002", func(t *store.Task) { t.Status.State = swarm.TaskStateFailed })
		w.stop()
		w.start()
		w.service("many", []string{"front"})
		w.tasks("many", 1, 300)
		w.next("z.next", "db", 2)
		w.wantAddrs("z.next", second)
		w.change("a.next", func(t *store.Task) { t.Status.State = swarm.TaskStateFailed })
		w.next("z.third", "db", 1)
		w.wantAddrs("z.third", first)
	})
}

// A batch that is refused leaves the slot's address with its former task.
func TestRefusedInheritance(t *testing.T) {
	stableWorld(t, func(w *world, first, _ string) {
		refused := 0
		w.prop.Refuse(func(b store.Batch) error {
			for _, c := range b.Changes {
				if n, ok := c.Object.(*store.Task); ok && n.ID == "next" && c.Action == store.Update && refused < 25 {
					refused++
					return store.ErrSequence
				}
			}
			return nil
		})
		w.change("db.0001", func(t *store.Task) { stopping(t); stopped(t) })
		w.next("next", "db", 1)
		time.Sleep(time.Minute)
		w.wantAddrs("next", first)
		if refused != 25 {
			t.Errorf("%d batches were refused", refused)
		}
	})
}

// Whatever happens to tasks, nodes and leaders, a slot that lives on has one
// address, and no two living tasks share one (world.check).
func TestSlotsAtRandom(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			stableWorld(t, func(w *world, first, second string) {
				want := map[int]string{1: first, 2: second}
				current := map[int]string{1: "db.0001", 2: "db.0002"}
				w.service("others", []string{"front"})
				for i := range 60 {
					slot := 1 + rng.IntN(2)
					switch rng.IntN(7) {
					case 0:
						w.stop()
						w.start()
					case 1:
						w.tasks("others", 10*i, 10*i+rng.IntN(5))
					case 2:
						w.do(func(tx *store.Tx) {
							for _, t := range tx.TasksOfService("others") {
								if rng.IntN(2) == 0 {
									tx.Remove(t)
								}
							}
						})
					default:
						old := current[slot]
						w.replace(rng, old)
						current[slot] = fmt.Sprintf("%c%d.%d", 'a'+rune(rng.IntN(26)), slot, i)
						w.next(current[slot], "db", slot)
						w.end(rng, old)
						w.runOn(current[slot], "n1")
					}
					w.check()
					for slot, id := range current {
						w.wantAddrs(id, want[slot])
					}
					if t.Failed() {
						t.Fatalf("at step %d", i)
					}
				}
			})
		})
	}
}

// replace has a task stop, by an order or by itself.
func (w *world) replace(rng *rand.Rand, id string) {
	w.Helper()
	if rng.IntN(2) == 0 {
		w.change(id, stopping)
		return
	}
	w.change(id, func(t *store.Task) { stopping(t); t.Status.State = swarm.TaskStateFailed })
}

// end has a task that was to stop do so, and perhaps be forgotten.
func (w *world) end(rng *rand.Rand, id string) {
	w.Helper()
	w.do(func(tx *store.Tx) {
		if t := tx.Task(id); !tasklife.Ended(t) {
			next := *t
			stopped(&next)
			tx.Update(&next)
		}
	})
	if rng.IntN(2) == 0 && !strings.HasPrefix(id, "db") {
		w.do(func(tx *store.Tx) { tx.Remove(tx.Task(id)) })
	}
}
