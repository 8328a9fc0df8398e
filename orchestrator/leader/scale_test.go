package leader_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
	"testing"
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

// large is a leader's loops over a store with one user network, in real time.
// Agents do at once what they are asked for.
type large struct {
	testing.TB
	store    *store.Store
	prop     *storetest.Proposer
	services int
}

const (
	largeNodes    = 50
	tasksEach     = 10
	patience      = 5 * time.Minute // a tenth of that on an idle machine
	defaultSubnet = "10.0.0.0/18"   // what ipam.DefaultPools gives a network
)

func newLarge(t testing.TB) *large {
	l := &large{TB: t}
	l.store, l.prop = storetest.New()
	storetest.Do(t, l.store, l.prop, func(tx *store.Tx) {
		c := &store.Cluster{}
		c.ID = "large"
		tx.Create(c)
		for name, subnet := range map[string]string{"mesh": "10.255.0.0/16", "shared": ""} {
			n := &store.Network{}
			n.ID, n.Spec.Name, n.Spec.Ingress = name, name, name == "mesh"
			if subnet != "" {
				n.Spec.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix(subnet)}}}
			}
			tx.Create(n)
		}
		for i := range largeNodes {
			n := &store.Node{}
			n.ID = fmt.Sprintf("node%02d", i)
			n.Status.State, n.Spec.Availability = swarm.NodeStateReady, swarm.NodeAvailabilityActive
			tx.Create(n)
		}
	})
	log := slog.New(slog.DiscardHandler)
	l.run(func(ctx context.Context) error {
		return leader.Term(ctx, []leader.Component{
			{Name: "allocator", Run: allocator.New(allocator.Config{Store: l.store, Proposer: l.prop, Log: log}).Run},
			{Name: "scheduler", Run: scheduler.New(scheduler.Config{Store: l.store, Proposer: l.prop, Log: log}).Run},
			{Name: "services", Run: services.New(services.Config{Store: l.store, Proposer: l.prop, Log: log}).Run},
			{Name: "reaper", Run: reaper.New(reaper.Config{Store: l.store, Proposer: l.prop, Log: log}).Run},
		})
	})
	l.run(l.agents)
	return l
}

// run runs fn until the test ends.
func (l *large) run(fn func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := fn(ctx); err != nil && ctx.Err() == nil {
			l.Error(err)
		}
	})
	l.Cleanup(func() {
		cancel()
		wait.Wait()
	})
}

// agents report tasks as running, or as stopped, as soon as they are to be so.
func (l *large) agents(ctx context.Context) error {
	var open map[string]bool
	see := func(t *store.Task) {
		if want := reported(t); want != t.Status.State {
			open[t.ID] = true
		}
	}
	w := l.store.Watch(func(v *store.View) {
		open = map[string]bool{}
		for _, t := range v.Tasks() {
			see(t)
		}
	})
	defer w.Close()
	for {
		if len(open) > 0 && len(w.C) == 0 {
			err := store.Transact(ctx, l.store, l.prop, func(tx *store.Tx) error {
				for id := range open {
					if t := tx.Task(id); t != nil && reported(t) != t.Status.State {
						next := *t
						next.Status.State = reported(t)
						tx.Update(&next)
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			clear(open)
		}
		select {
		case <-ctx.Done():
			return nil
		case c, ok := <-w.C:
			if !ok {
				return l.agents(ctx)
			}
			for _, e := range c.Events {
				if t, ok := e.New.(*store.Task); ok {
					see(t)
				}
			}
		}
	}
}

// reported is what the agent of a task's node will say of it.
func reported(t *store.Task) swarm.TaskState {
	switch {
	case !tasklife.Placed(t) || tasklife.Ended(t):
		return t.Status.State
	case !tasklife.Wanted(t):
		return swarm.TaskStateShutdown
	case t.DesiredState == swarm.TaskStateRunning:
		return swarm.TaskStateRunning
	}
	return t.Status.State
}

// grow creates services until there are n, and waits until all run.
func (l *large) grow(n int) {
	l.Helper()
	for ; l.services < n; l.services++ {
		storetest.Do(l, l.store, l.prop, func(tx *store.Tx) {
			s := &store.Service{SpecVersion: 1}
			s.ID = fmt.Sprintf("service%05d", l.services)
			replicas := uint64(tasksEach)
			s.Spec.Name, s.Spec.Mode.Replicated = s.ID, &swarm.ReplicatedService{Replicas: &replicas}
			s.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: "image"}
			s.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "shared"}}
			tx.Create(s)
			tx.Create(&store.Spec{ServiceID: s.ID, Number: 1, Template: s.Spec.TaskTemplate})
		})
	}
	l.settled(n * tasksEach)
}

// settled waits until exactly so many tasks run.
func (l *large) settled(tasks int) {
	l.Helper()
	running := map[string]bool{}
	see := func(t *store.Task, gone bool) {
		if !gone && t.Status.State == swarm.TaskStateRunning && tasklife.Wanted(t) {
			running[t.ID] = true
		} else {
			delete(running, t.ID)
		}
	}
	deadline := time.After(patience)
	for {
		w := l.store.Watch(func(v *store.View) {
			clear(running)
			for _, t := range v.Tasks() {
				see(t, false)
			}
		})
		for open := true; open && len(running) != tasks; {
			var c store.Commit
			select {
			case c, open = <-w.C:
			case <-deadline:
				l.Fatalf("%d of %d tasks run", len(running), tasks)
			}
			for _, e := range c.Events {
				if t, ok := e.Object().(*store.Task); ok {
					see(t, e.New == nil)
				}
			}
		}
		w.Close()
		if len(running) == tasks {
			return
		}
	}
}

// TestManyServicesOnOneNetwork: 1,000 services of 10 tasks on a network of the
// default size, each task and service with an address of its own.
func TestManyServicesOnOneNetwork(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: takes seconds")
	}
	const count = 1000
	l := newLarge(t)
	l.grow(count)
	l.store.View(func(v *store.View) {
		if s := v.Network("shared").IPAMOptions.Configs[0].Subnet; s.String() != defaultSubnet {
			t.Errorf("the network has %s", s)
		}
		owner := map[netip.Prefix]string{}
		put := func(a netip.Prefix, who string) {
			if owner[a] != "" {
				t.Errorf("%s and %s both have %s", owner[a], who, a)
			}
			owner[a] = who
		}
		for _, s := range v.Services() {
			for _, vip := range s.Endpoint.VirtualIPs {
				put(vip.Addr, s.ID)
			}
		}
		perNode := map[string]int{}
		for _, task := range v.Tasks() {
			perNode[task.NodeID]++
			for _, a := range task.NetworksAttachments {
				for _, p := range a.Addresses {
					put(p, task.ID)
				}
			}
		}
		if want := count + 2*count*tasksEach; len(owner) != want {
			t.Errorf("%d addresses are in use, want %d", len(owner), want)
		}
		if len(perNode) != largeNodes {
			t.Errorf("tasks are on %d nodes", len(perNode))
		}
	})
}

// BenchmarkChange scales one service up and down by a task, all loops included,
// beside so many services of 10 tasks on the same network.
func BenchmarkChange(b *testing.B) {
	for _, count := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint("services=", count), func(b *testing.B) {
			l := newLarge(b)
			l.grow(count)
			before := processorTime(b)
			for b.Loop() {
				for _, replicas := range []uint64{tasksEach + 1, tasksEach} {
					storetest.Do(b, l.store, l.prop, func(tx *store.Tx) {
						s := *tx.Service("service00007")
						s.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &replicas}
						tx.Update(&s)
					})
					l.serviceRuns("service00007", int(replicas))
				}
			}
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// processorTime is what this process has used, which others' load does not change.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serviceRuns waits until a service has exactly so many tasks and all run.
func (l *large) serviceRuns(id string, tasks int) {
	l.Helper()
	storetest.Until(l, l.store, "the service has its tasks", func(v *store.View) bool {
		has := v.TasksOfService(id)
		for _, t := range has {
			if t.Status.State != swarm.TaskStateRunning {
				return false
			}
		}
		return len(has) == tasks
	})
}
