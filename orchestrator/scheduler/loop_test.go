package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// world is a cluster with nothing but a scheduler, in a synctest bubble.
type world struct {
	*testing.T
	store *store.Store
	prop  *storetest.Proposer
	stop  func()
}

func inWorld(t *testing.T, fn func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		s, prop := storetest.New()
		w := &world{T: t, store: s, prop: prop}
		w.start()
		fn(w)
		w.stop()
	})
}

func (w *world) start() {
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan error)
	loop := New(Config{Store: w.store, Proposer: w.prop, Log: slog.New(slog.DiscardHandler)})
	go func() { done <- loop.Run(ctx) }()
	synctest.Wait()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	}
}

func (w *world) do(fn func(tx *store.Tx)) {
	w.Helper()
	storetest.Do(w, w.store, w.prop, fn)
	synctest.Wait()
}

// nodes creates ready nodes n<from> to n<to>.
func (w *world) nodes(from, to int, change func(i int, n *store.Node)) {
	w.do(func(tx *store.Tx) {
		for i := from; i <= to; i++ {
			n := &store.Node{}
			n.ID = fmt.Sprintf("n%d", i)
			n.Status.State, n.Spec.Availability = swarm.NodeStateReady, swarm.NodeAvailabilityActive
			if change != nil {
				change(i, n)
			}
			tx.Create(n)
		}
	})
}

func (w *world) service(id string, change func(*swarm.ServiceSpec)) {
	s := &store.Service{SpecVersion: 1}
	s.ID, s.Spec.Name = id, id
	if change != nil {
		change(&s.Spec)
	}
	w.do(func(tx *store.Tx) {
		tx.Create(s)
		tx.Create(&store.Spec{ServiceID: id, Number: 1, Template: s.Spec.TaskTemplate})
	})
}

// tasks creates pending tasks number from to to of a service.
func (w *world) tasks(service string, from, to int) {
	w.do(func(tx *store.Tx) {
		for i := from; i <= to; i++ {
			tx.Create(pending(service, i))
		}
	})
}

func pending(service string, slot int) *store.Task {
	t := &store.Task{SpecVersion: 1}
	t.ID, t.ServiceID, t.Slot = fmt.Sprintf("%s.%03d", service, slot), service, slot
	t.DesiredState, t.Status.State = swarm.TaskStateRunning, swarm.TaskStatePending
	return t
}

func (w *world) task(id string) (t *store.Task) {
	w.store.View(func(v *store.View) { t = v.Task(id) })
	return t
}

func (w *world) change(id string, fn func(*store.Task)) {
	w.do(func(tx *store.Tx) {
		t := *tx.Task(id)
		fn(&t)
		tx.Update(&t)
	})
}

func (w *world) changeNode(id string, fn func(*store.Node)) {
	w.do(func(tx *store.Tx) {
		n := *tx.Node(id)
		fn(&n)
		tx.Update(&n)
	})
}

// spread is the number of a service's tasks on each node.
func (w *world) spread(service string) map[string]int {
	out := map[string]int{}
	w.store.View(func(v *store.View) {
		for _, t := range v.TasksOfService(service) {
			if tasklife.Placed(t) && tasklife.Wanted(t) {
				out[t.NodeID]++
			}
		}
	})
	return out
}

func (w *world) wantStuck(id, reason string) {
	w.Helper()
	if t := w.task(id); t.Status.State != swarm.TaskStatePending || t.Status.Err != reason {
		w.Errorf("task %s: %s, %q, want pending, %q", id, t.Status.State, t.Status.Err, reason)
	}
}

func (w *world) wantSpread(service string, want map[string]int) {
	w.Helper()
	if got := w.spread(service); fmt.Sprint(got) != fmt.Sprint(want) {
		w.Errorf("%s: %v, want %v", service, got, want)
	}
}

func TestSpread(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1, 3, nil)
		w.service("a", nil)
		w.service("b", nil)
		w.tasks("a", 1, 4)
		w.wantSpread("a", map[string]int{"n1": 2, "n2": 1, "n3": 1})
		if s := w.task("a.001").Status; s.Message != "scheduler assigned task to node" {
			t.Errorf("status %+v", s)
		}
		// The service's own tasks count first, then all.
		w.tasks("b", 1, 2)
		w.wantSpread("b", map[string]int{"n2": 1, "n3": 1})
		w.tasks("b", 3, 900)
		w.wantSpread("b", map[string]int{"n1": 300, "n2": 300, "n3": 300})
	})
}

func TestReasons(t *testing.T) {
	inWorld(t, func(w *world) {
		w.service("web", func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Placement = &swarm.Placement{
				Constraints: []string{"node.labels.zone==east"}, Platforms: []swarm.Platform{{OS: "linux"}},
			}
			s.TaskTemplate.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{MemoryBytes: 100}}
		})
		w.tasks("web", 1, 1)
		w.wantStuck("web.001", "no suitable node")
		w.nodes(1, 6, func(i int, n *store.Node) {
			n.Spec.Labels = map[string]string{"zone": "east"}
			n.Description.Platform.OS = "linux"
			n.Description.Resources.MemoryBytes = 150
			switch i {
			case 1, 2:
				n.Spec.Availability = swarm.NodeAvailabilityPause
			case 3, 4:
				n.Spec.Labels = nil
			case 5:
				n.Description.Resources.MemoryBytes = 50
			case 6:
				n.Description.Platform.OS = "windows"
			}
		})
		w.wantStuck("web.001", "no suitable node (2 nodes not available for new tasks; insufficient resources on 1 node; "+
			"scheduling constraints not satisfied on 2 nodes; unsupported platform on 1 node)")
		w.changeNode("n3", func(n *store.Node) { n.Spec.Labels = map[string]string{"zone": "EAST"} })
		w.wantSpread("web", map[string]int{"n3": 1})
		if e := w.task("web.001").Status.Err; e != "" {
			t.Errorf("the error stayed: %s", e)
		}
		// Its memory is taken until it has ended.
		w.tasks("web", 2, 2)
		w.wantStuck("web.002", "no suitable node (2 nodes not available for new tasks; insufficient resources on 2 nodes; "+
			"scheduling constraints not satisfied on 1 node; unsupported platform on 1 node)")
		w.change("web.001", func(t *store.Task) { t.DesiredState = swarm.TaskStateShutdown })
		if w.task("web.002").NodeID != "" {
			t.Error("placed on memory that is in use still")
		}
		w.change("web.001", func(t *store.Task) { t.Status.State = swarm.TaskStateShutdown })
		w.wantSpread("web", map[string]int{"n3": 1})
	})
}

func TestHostPortsAndMaxReplicas(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1, 2, nil)
		host := func(s *swarm.ServiceSpec) {
			s.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{
				{TargetPort: 80, PublishedPort: 80, PublishMode: swarm.PortConfigPublishModeHost},
			}}
		}
		w.service("a", host)
		w.service("b", host)
		w.tasks("a", 1, 1)
		w.tasks("b", 1, 2)
		w.wantSpread("a", map[string]int{"n1": 1})
		w.wantSpread("b", map[string]int{"n2": 1})
		w.wantStuck("b.002", "no suitable node (host-mode port already in use on 2 nodes: 80/tcp by service a, 80/tcp by service b)")
		w.do(func(tx *store.Tx) { tx.Remove(tx.Task("a.001")) })
		w.wantSpread("b", map[string]int{"n1": 1, "n2": 1})

		w.service("c", func(s *swarm.ServiceSpec) { s.TaskTemplate.Placement = &swarm.Placement{MaxReplicas: 2} })
		w.tasks("c", 1, 5)
		w.wantSpread("c", map[string]int{"n1": 2, "n2": 2})
		w.wantStuck("c.005", "no suitable node (max replicas per node limit exceed)")
	})
}

// A task that leaves the number to us gets one that neither another task of its
// node nor the routing mesh has, also from a new leader.
func TestOpenHostPortsGetANumber(t *testing.T) {
	open := func(s *swarm.ServiceSpec) {
		s.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{
			{TargetPort: 80, PublishMode: swarm.PortConfigPublishModeHost},
			{TargetPort: 81, PublishMode: swarm.PortConfigPublishModeHost, Protocol: network.UDP},
		}}
	}
	inWorld(t, func(w *world) {
		w.nodes(1, 1, nil)
		w.service("mesh", func(s *swarm.ServiceSpec) {
			s.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 80, PublishedPort: 32766, PublishMode: swarm.PortConfigPublishModeIngress}}}
		})
		w.service("a", open)
		w.tasks("a", 1, 2)
		w.stop()
		w.start()
		w.tasks("a", 3, 3)
		w.do(func(tx *store.Tx) { tx.Remove(tx.Task("a.001")) })
		w.tasks("a", 4, 4)
		for id, want := range map[string]string{"a.002": "32765/tcp 32766/udp", "a.003": "32764/tcp 32765/udp", "a.004": "32767/tcp 32767/udp"} {
			got := fmt.Sprintf("%v", portsOf(w.task(id).Status.PortStatus.Ports))
			if got != "["+want+"]" {
				t.Errorf("%s has ports %s, want %s", id, got, want)
			}
		}
	})
	inWorld(t, func(w *world) {
		w.nodes(1, 1, nil)
		w.service("host", func(s *swarm.ServiceSpec) {
			open(s)
			s.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "host"}}
		})
		w.tasks("host", 1, 2)
		if got := fmt.Sprint(portsOf(w.task("host.001").Status.PortStatus.Ports)); got != "[80/tcp 81/udp]" {
			t.Errorf("on the host's network the port is the task's own, not %s", got)
		}
		w.wantStuck("host.002", "no suitable node (host-mode port already in use on 1 node: 80/tcp by service host, 81/udp by service host)")
	})
}

func TestPreferences(t *testing.T) {
	inWorld(t, func(w *world) {
		// Two zones, one with three nodes in two racks, one with a single node.
		w.nodes(1, 4, func(i int, n *store.Node) {
			n.Spec.Labels = map[string]string{"zone": "a", "rack": "r1"}
			switch i {
			case 3:
				n.Spec.Labels["rack"] = "r2"
			case 4:
				n.Spec.Labels["zone"] = "b"
			}
		})
		w.service("web", func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Placement = &swarm.Placement{Preferences: []swarm.PlacementPreference{
				{Spread: &swarm.SpreadOver{SpreadDescriptor: "node.labels.zone"}},
				{Spread: &swarm.SpreadOver{SpreadDescriptor: "node.labels.rack"}},
			}}
		})
		w.tasks("web", 1, 8)
		w.wantSpread("web", map[string]int{"n1": 1, "n2": 1, "n3": 2, "n4": 4})
	})
}

func TestGlobalTasksStayOnTheirNode(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1, 2, nil)
		w.service("g", func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.id==n1"}}
		})
		w.do(func(tx *store.Tx) {
			for i := range 2 {
				t := pending("g", i)
				t.Slot, t.NodeID = 0, fmt.Sprintf("n%d", i+1)
				tx.Create(t)
			}
		})
		w.wantSpread("g", map[string]int{"n1": 1})
		w.wantStuck("g.001", "no suitable node (scheduling constraints not satisfied on 1 node)")
	})
}

func TestNodeWhereTasksKeepFailingComesLast(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1, 2, nil)
		w.service("other", nil)
		w.service("web", nil)
		w.tasks("other", 1, 3) // n1 has two, n2 one: n2 comes first
		for i := 1; i <= 8; i++ {
			w.tasks("web", i, i)
			want := "n2"
			if i > 5 {
				want = "n1"
			}
			if got := w.task(fmt.Sprintf("web.%03d", i)).NodeID; got != want {
				t.Fatalf("task %d went to %s, want %s", i, got, want)
			}
			w.change(fmt.Sprintf("web.%03d", i), func(t *store.Task) {
				t.Status.State = swarm.TaskStateShutdown
				if want == "n2" {
					t.Status.State = swarm.TaskStateFailed
				}
			})
		}
		<-time.After(failureWindow + time.Second)
		w.tasks("web", 9, 9)
		if got := w.task("web.009").NodeID; got != "n2" {
			t.Errorf("the failures are old, but the task went to %s", got)
		}
	})
}

func TestGenericResources(t *testing.T) {
	discrete := func(kind string, n int64) swarm.GenericResource {
		return swarm.GenericResource{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: kind, Value: n}}
	}
	named := func(kind, value string) swarm.GenericResource {
		return swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: kind, Value: value}}
	}
	inWorld(t, func(w *world) {
		w.nodes(1, 1, func(_ int, n *store.Node) {
			n.Description.Resources.GenericResources = []swarm.GenericResource{
				discrete("ssd", 3), named("gpu", "g1"), named("gpu", "g2"),
			}
		})
		want := []swarm.GenericResource{discrete("ssd", 1), discrete("gpu", 1)}
		w.service("ml", func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{GenericResources: want}}
		})
		w.tasks("ml", 1, 3)
		w.wantStuck("ml.003", "no suitable node (insufficient resources on 1 node)")
		got := map[string]bool{}
		for _, id := range []string{"ml.001", "ml.002"} {
			for _, r := range w.task(id).GenericResources {
				if r.NamedResourceSpec != nil {
					got[r.NamedResourceSpec.Value] = true
				}
			}
		}
		if !got["g1"] || !got["g2"] {
			t.Errorf("GPUs given: %v", got)
		}
	})
}

func TestNewLeaderCountsWhatIsThere(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1, 2, nil)
		w.service("web", nil)
		w.tasks("web", 1, 5)
		w.stop()
		w.tasks("web", 6, 8)
		w.start()
		w.wantSpread("web", map[string]int{"n1": 4, "n2": 4})
	})
}

// The node is lost while the placement is on its way.
func TestPlacementOnALostNodeIsNotStored(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1, 2, nil)
		w.service("web", nil)
		first := true
		w.prop.Refuse(func(b store.Batch) error {
			task, ok := b.Changes[0].Object.(*store.Task)
			if ok && task.NodeID != "" && first {
				first = false
				go w.changeNodeQuietly(task.NodeID)
				return store.ErrSequence
			}
			return nil
		})
		w.tasks("web", 1, 4)
		<-time.After(time.Minute)
		n := w.spread("web")
		if n["n1"]+n["n2"] != 4 {
			t.Errorf("spread %v", n)
		}
	})
}

func (w *world) changeNodeQuietly(id string) {
	storetest.Do(w, w.store, w.prop, func(tx *store.Tx) {
		n := *tx.Node(id)
		n.Status.State = swarm.NodeStateDown
		tx.Update(&n)
	})
}
