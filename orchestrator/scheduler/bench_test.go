package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// The benchmarks have the shapes of swarmkit's of the same names: so many tasks wait,
// each of a service of its own, until all are assigned. To make the tasks does not count. The OneService ones have all
// tasks in one service, the ones with constraints allow every third node.

func BenchmarkScheduler1kNodes1kTasks(b *testing.B)     { benchmark(b, shape{nodes: 1e3, tasks: 1e3}) }
func BenchmarkScheduler1kNodes10kTasks(b *testing.B)    { benchmark(b, shape{nodes: 1e3, tasks: 1e4}) }
func BenchmarkScheduler1kNodes100kTasks(b *testing.B)   { benchmark(b, shape{nodes: 1e3, tasks: 1e5}) }
func BenchmarkScheduler100kNodes1kTasks(b *testing.B)   { benchmark(b, shape{nodes: 1e5, tasks: 1e3}) }
func BenchmarkScheduler100kNodes100kTasks(b *testing.B) { benchmark(b, shape{nodes: 1e5, tasks: 1e5}) }
func BenchmarkScheduler100kNodes1MTasks(b *testing.B)   { benchmark(b, shape{nodes: 1e5, tasks: 1e6}) }

func BenchmarkSchedulerConstraints1kNodes1kTasks(b *testing.B) {
	benchmark(b, shape{nodes: 1e3, tasks: 1e3, constrained: true})
}

func BenchmarkSchedulerConstraints1kNodes10kTasks(b *testing.B) {
	benchmark(b, shape{nodes: 1e3, tasks: 1e4, constrained: true})
}

func BenchmarkSchedulerConstraints1kNodes100kTasks(b *testing.B) {
	benchmark(b, shape{nodes: 1e3, tasks: 1e5, constrained: true})
}

func BenchmarkSchedulerConstraints5kNodes100kTasks(b *testing.B) {
	benchmark(b, shape{nodes: 5e3, tasks: 1e5, constrained: true})
}

func BenchmarkSchedulerOneService1kNodes100kTasks(b *testing.B) {
	benchmark(b, shape{nodes: 1e3, tasks: 1e5, together: true})
}

// BenchmarkSchedulerOneMore places one task of a service that has tasks on every
// node, which is the worst case, in a cluster of 1,000 nodes and so many tasks.
func BenchmarkSchedulerOneMore(b *testing.B) {
	for _, tasks := range []int{1e3, 1e4, 1e5} {
		b.Run(fmt.Sprint("tasks=", tasks), func(b *testing.B) {
			c := newCluster(b, shape{nodes: 1e3, tasks: tasks, together: true})
			c.start()
			c.assigned(tasks)
			b.ReportAllocs()
			for b.Loop() {
				c.number++
				c.propose(store.Change{Action: store.Create, Kind: store.KindTask, Key: c.task(c.number).ID, Object: c.task(c.number)})
				c.assigned(1)
			}
		})
	}
}

type shape struct {
	nodes, tasks int
	// constrained: each task may run on a third of the nodes.
	constrained bool
	// together: all tasks are of one service.
	together bool
}

func benchmark(b *testing.B, s shape) {
	b.ReportAllocs()
	for range b.N {
		b.StopTimer()
		c := newCluster(b, s)
		b.StartTimer()
		c.start()
		c.assigned(s.tasks)
		b.StopTimer()
		c.end()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(s.tasks), "ns/task")
}

// cluster is a store with a scheduler. It proposes as one replica applies: no
// encoding, no disk.
type cluster struct {
	testing.TB
	shape
	store  *store.Store
	watch  *store.Watcher
	number int
	end    func()

	mu    sync.Mutex
	index uint64
}

// newCluster makes nodes, services and tasks that wait.
func newCluster(b *testing.B, s shape) *cluster {
	c := &cluster{TB: b, shape: s, store: store.New()}
	for i := range s.nodes {
		n := &store.Node{}
		n.ID = fmt.Sprintf("node%06d", i)
		n.Status.State, n.Spec.Availability = swarm.NodeStateReady, swarm.NodeAvailabilityActive
		n.Spec.Labels = map[string]string{"third": fmt.Sprint(i % 3)}
		c.propose(store.Change{Action: store.Create, Kind: store.KindNode, Key: n.ID, Object: n})
	}
	services := s.tasks
	if s.together {
		services = 1
	}
	for i := range services {
		spec := &store.Spec{ServiceID: c.service(i), Number: 1}
		if s.constrained {
			spec.Template.Placement = &swarm.Placement{Constraints: []string{"node.labels.third==0"}}
		}
		svc := &store.Service{SpecVersion: 1}
		svc.ID, svc.Spec.Name = c.service(i), c.service(i)
		c.propose(
			store.Change{Action: store.Create, Kind: store.KindService, Key: svc.ID, Object: svc},
			store.Change{Action: store.Create, Kind: store.KindSpec, Key: spec.Key(), Object: spec},
		)
	}
	c.create()
	c.watch = c.store.Watch(nil)
	return c
}

// start runs a scheduler until the benchmark ends.
func (c *cluster) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	loop := New(Config{Store: c.store, Proposer: c, Log: slog.New(slog.DiscardHandler)})
	go func() { done <- loop.Run(ctx) }()
	c.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.Error(err)
		}
		c.watch.Close()
	})
	c.Cleanup(c.end)
}

func (c *cluster) service(i int) string {
	if c.together {
		i = 0
	}
	return fmt.Sprintf("service%07d", i)
}

func (c *cluster) task(i int) *store.Task {
	t := pending(c.service(i), i)
	t.ID = fmt.Sprintf("task%08d", i)
	return t
}

// create has all tasks wait.
func (c *cluster) create() {
	changes := make([]store.Change, c.tasks)
	for c.number < c.tasks {
		t := c.task(c.number)
		changes[c.number] = store.Change{Action: store.Create, Kind: store.KindTask, Key: t.ID, Object: t}
		c.number++
	}
	c.propose(changes...)
}

func (c *cluster) propose(changes ...store.Change) {
	if _, err := c.Propose(context.Background(), store.Batch{Time: time.Now(), Changes: changes}); err != nil {
		c.Fatal(err)
	}
}

// Propose implements store.Proposer.
func (c *cluster) Propose(_ context.Context, b store.Batch) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index++
	return c.index, c.store.Apply(c.index, b)
}

// assigned waits until so many tasks more were.
func (c *cluster) assigned(count int) {
	for count > 0 {
		commit, ok := <-c.watch.C
		if !ok {
			c.Fatal("the watcher was cut off")
		}
		for _, e := range commit.Events {
			if t, ok := e.New.(*store.Task); ok && t.NodeID != "" {
				count--
			}
		}
	}
}
