package leader_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/allocator"
	"github.com/meshd/meshd/orchestrator/leader"
	"github.com/meshd/meshd/orchestrator/reaper"
	"github.com/meshd/meshd/orchestrator/scheduler"
	"github.com/meshd/meshd/orchestrator/services"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// cluster runs all loops over one store. Users, agents and failures are random,
// from a seed; the agents of nodes that are down do nothing.
type cluster struct {
	*testing.T
	store *store.Store
	prop  *storetest.Proposer
	rng   *rand.Rand
	stop  func()
}

func (c *cluster) start() {
	ctx, cancel := context.WithCancel(c.Context())
	log := slog.New(slog.DiscardHandler)
	done := make(chan error)
	go func() {
		done <- leader.Term(ctx, []leader.Component{
			{Name: "allocator", Run: allocator.New(allocator.Config{Store: c.store, Proposer: c.prop, Log: log}).Run},
			{Name: "scheduler", Run: scheduler.New(scheduler.Config{Store: c.store, Proposer: c.prop, Log: log}).Run},
			{Name: "services", Run: services.New(services.Config{Store: c.store, Proposer: c.prop, Log: log}).Run},
			{Name: "reaper", Run: reaper.New(reaper.Config{Store: c.store, Proposer: c.prop, Log: log}).Run},
		})
	}()
	c.stop = func() {
		cancel()
		if err := <-done; err != nil {
			c.Error(err)
		}
	}
}

func (c *cluster) do(fn func(tx *store.Tx)) {
	c.Helper()
	storetest.Do(c, c.store, c.prop, fn)
	synctest.Wait()
}

const (
	nodeCount    = 5
	serviceCount = 4
)

func (c *cluster) seed() {
	c.do(func(tx *store.Tx) {
		tx.Create(&store.Cluster{})
		mesh := &store.Network{VNI: 4096}
		mesh.ID, mesh.Spec.Name, mesh.Spec.Ingress = "mesh", "ingress", true
		mesh.Spec.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.255.0.0/16")}}}
		tx.Create(mesh)
		// Too small for every service at its largest: some tasks must wait.
		small := &store.Network{}
		small.ID, small.Spec.Name = "small", "small"
		small.Spec.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.7.0.0/27")}}}
		tx.Create(small)
		for i := range nodeCount {
			n := &store.Node{}
			n.ID = fmt.Sprintf("n%d", i)
			n.Status.State, n.Spec.Availability = swarm.NodeStateReady, swarm.NodeAvailabilityActive
			tx.Create(n)
		}
	})
}

// act does one random thing.
func (c *cluster) act() {
	id := fmt.Sprintf("s%d", c.rng.IntN(serviceCount))
	node := fmt.Sprintf("n%d", c.rng.IntN(nodeCount))
	c.do(func(tx *store.Tx) {
		s := tx.Service(id)
		switch k := c.rng.IntN(10); {
		case s == nil:
			c.createService(tx, id)
		case k == 0:
			tx.Remove(s)
		case k < 3 && s.Spec.Mode.Replicated != nil:
			next, n := *s, uint64(c.rng.IntN(12))
			next.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &n}
			tx.Update(&next)
		case k < 5:
			next, prev := *s, s.Spec
			next.PreviousSpec, next.UpdateStatus = &prev, nil
			next.Spec.TaskTemplate.ForceUpdate++
			for _, spec := range tx.SpecsOf(id) {
				next.SpecVersion = max(next.SpecVersion, spec.Number)
			}
			next.SpecVersion++
			tx.Create(&store.Spec{ServiceID: id, Number: next.SpecVersion, Template: next.Spec.TaskTemplate})
			tx.Update(&next)
		case tx.Node(node) == nil:
			n := &store.Node{}
			n.ID = node
			n.Status.State, n.Spec.Availability = swarm.NodeStateReady, swarm.NodeAvailabilityActive
			tx.Create(n)
		case k == 9 && c.rng.IntN(4) == 0:
			tx.Remove(tx.Node(node))
		default:
			n := *tx.Node(node)
			n.Status.State, n.Spec.Availability = swarm.NodeStateReady, swarm.NodeAvailabilityActive
			switch c.rng.IntN(4) {
			case 0:
				n.Status.State = swarm.NodeStateDown
			case 1:
				n.Spec.Availability = swarm.NodeAvailabilityDrain
			}
			tx.Update(&n)
		}
	})
}

func (c *cluster) createService(tx *store.Tx, id string) {
	s := &store.Service{SpecVersion: 1}
	s.ID, s.Spec.Name = id, id
	n := uint64(c.rng.IntN(12))
	s.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &n}
	if c.rng.IntN(3) == 0 {
		s.Spec.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}}
	}
	s.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "small"}}
	s.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 80}}}
	order := swarm.UpdateOrderStopFirst
	if c.rng.IntN(2) == 0 {
		order = swarm.UpdateOrderStartFirst
	}
	s.Spec.UpdateConfig = &swarm.UpdateConfig{Parallelism: uint64(c.rng.IntN(3)), Order: order}
	tx.Create(s)
	for _, old := range tx.SpecsOf(id) { // of a removed service of the same ID
		s.SpecVersion = max(s.SpecVersion, old.Number+1)
	}
	tx.Create(&store.Spec{ServiceID: id, Number: s.SpecVersion, Template: s.Spec.TaskTemplate})
}

// agents let tasks take a step; some fail.
func (c *cluster) agents(failures bool) {
	c.do(func(tx *store.Tx) {
		for _, t := range tx.Tasks() {
			n := tx.Node(t.NodeID)
			if n == nil || n.Status.State != swarm.NodeStateReady || !tasklife.Placed(t) || tasklife.Ended(t) {
				continue
			}
			next := *t
			switch {
			case !tasklife.Wanted(t):
				next.Status.State = swarm.TaskStateShutdown
			case failures && c.rng.IntN(20) == 0:
				next.Status.State = swarm.TaskStateFailed
			case t.DesiredState == swarm.TaskStateReady:
				next.Status.State = swarm.TaskStateReady
			default:
				next.Status.State = swarm.TaskStateRunning
			}
			if next.Status.State != t.Status.State {
				tx.Update(&next)
			}
		}
	})
}

// check holds at every moment.
func (c *cluster) check() {
	c.Helper()
	c.store.View(func(v *store.View) {
		addrs := map[string]string{}
		put := func(network, who string, p netip.Prefix) {
			key := network + " " + p.Addr().String()
			if other := addrs[key]; other != "" {
				c.Fatalf("%s and %s both have %s", other, who, key)
			}
			addrs[key] = who
		}
		ports := map[uint32]string{}
		for _, s := range v.Services() {
			for _, vip := range s.Endpoint.VirtualIPs {
				put(vip.NetworkID, s.ID, vip.Addr)
			}
			for _, p := range s.Endpoint.Ports {
				if ports[p.PublishedPort] != "" {
					c.Fatalf("%s and %s both publish %d", s.ID, ports[p.PublishedPort], p.PublishedPort)
				}
				ports[p.PublishedPort] = s.ID
			}
		}
		wanted := map[string]int{}
		for _, t := range v.Tasks() {
			if !tasklife.Ended(t) {
				for _, a := range t.NetworksAttachments {
					put(a.Network.ID, t.ID, a.Addresses[0])
				}
			}
			if v.Spec(t.ServiceID, t.SpecVersion) == nil {
				c.Fatalf("the template of task %s (%s, version %d) is gone", t.ID, t.ServiceID, t.SpecVersion)
			}
			if tasklife.Wanted(t) {
				wanted[fmt.Sprint(t.ServiceID, " ", slotOf(t), " ", t.SpecVersion)]++
			}
		}
		for slot, n := range wanted {
			// A start-first service's task goes on, on a node that is drained, until
			// the one that follows it runs.
			most, id := 1, strings.Fields(slot)[0]
			if s := v.Service(id); s != nil && s.Spec.UpdateConfig.Order == swarm.UpdateOrderStartFirst {
				most = 2
			}
			if n > most {
				c.Fatalf("slot %s has %d tasks of one version", slot, n)
			}
		}
	})
}

func slotOf(t *store.Task) string {
	if t.Slot == 0 {
		return t.NodeID
	}
	return fmt.Sprint(t.Slot)
}

// settled holds when nothing has happened for long, and every node is well.
func (c *cluster) settled() {
	c.Helper()
	c.store.View(func(v *store.View) {
		for _, s := range v.Services() {
			want := len(v.Nodes())
			if r := s.Spec.Mode.Replicated; r != nil {
				want = int(*r.Replicas)
			}
			// By slot: a start-first update may have a second task in one.
			slots := map[string]bool{}
			for _, t := range v.TasksOfService(s.ID) {
				switch {
				case !tasklife.Wanted(t):
				case t.Status.State == swarm.TaskStateRunning,
					t.Status.State == swarm.TaskStateNew && t.Status.Err != "": // waits for an address
					slots[slotOf(t)] = true
				}
			}
			paused := s.UpdateStatus != nil && s.UpdateStatus.State == swarm.UpdateStatePaused
			if len(slots) != want && !paused {
				c.Errorf("service %s: %d slots run or wait for an address, want %d (update %+v)", s.ID, len(slots), want, s.UpdateStatus)
			}
		}
		for _, t := range v.Tasks() {
			if v.Service(t.ServiceID) == nil {
				c.Errorf("task %s of a removed service is left: %s, desired %s", t.ID, t.Status.State, t.DesiredState)
			}
		}
		for id := range serviceCount {
			if sid := fmt.Sprintf("s%d", id); v.Service(sid) == nil && len(v.SpecsOf(sid)) > 0 {
				c.Errorf("templates of the removed service %s are left", sid)
			}
		}
	})
}

// Whatever users, nodes and tasks do, no address, port or slot is given twice, and
// once they leave the cluster alone it becomes what was asked for.
func TestAllLoopsUnderRandomActions(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, prop := storetest.New()
				c := &cluster{T: t, store: s, prop: prop, rng: rand.New(rand.NewPCG(seed, 7))}
				c.start()
				c.seed()
				for i := range 150 {
					c.act()
					<-time.After(time.Duration(c.rng.IntN(3000)) * time.Millisecond)
					c.agents(true)
					c.check()
					if i%40 == 39 { // a new leader
						c.stop()
						c.act()
						c.agents(true)
						c.start()
					}
				}
				c.do(func(tx *store.Tx) {
					for _, n := range tx.Nodes() {
						next := *n
						next.Status.State, next.Spec.Availability = swarm.NodeStateReady, swarm.NodeAvailabilityActive
						tx.Update(&next)
					}
				})
				for range 600 {
					<-time.After(time.Second)
					c.agents(false)
				}
				c.check()
				c.settled()
				c.stop()
			})
		})
	}
}
