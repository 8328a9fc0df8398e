package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/probe"
)

// Failover: three managers and two workers. A power cut takes the leader, and then a
// worker, again and again; clients outside and writers through another manager go on all
// the while, and say how long they noticed it.
const (
	failoverNodes = 5
	failoverTasks = 10
	failoverPort  = 8080
	// settle is how long the cluster is left alone around each cut.
	settle = 3 * time.Second
)

type failover struct {
	*lab.Lab
	sample string
	nodes  map[string]*client.Client // by name
	addrs  map[string]string
	writes int
}

func benchFailover(ctx context.Context, l *lab.Lab, rounds int, sample string) error {
	f := &failover{Lab: l, sample: sample, nodes: map[string]*client.Client{}, addrs: map[string]string{}}
	infos, err := l.Ls(ctx)
	if err != nil {
		return err
	}
	for _, n := range infos {
		f.addrs[n.Name] = n.Address
		if f.nodes[n.Name], err = l.MeshdClient(n.Name); err != nil {
			return err
		}
	}
	if err := f.serve(ctx); err != nil {
		return err
	}
	var write, out, replaced []float64
	for round := range rounds {
		w, err := f.loseLeader(ctx)
		if err != nil {
			return fmt.Errorf("leader lost: %w", err)
		}
		o, r, err := f.loseWorker(ctx, []string{"node4", "node5"}[round%2])
		if err != nil {
			return fmt.Errorf("worker lost: %w", err)
		}
		fmt.Fprintf(os.Stderr, "round %d: a write took %.2fs, calls failed for %.2fs, replaced after %.2fs\n", round+1, w, o, r)
		write, out, replaced = append(write, w), append(out, o), append(replaced, r)
	}
	fmt.Println("| power cut of | until | p50, s | p95, s | longest, s |\n|---|---|---|---|---|")
	for _, row := range []struct {
		of, until string
		took      []float64
	}{
		{"the leader", "a write through another manager is answered", write},
		{"a worker", "no node leads clients to it any more", out},
		{"a worker", "its tasks run elsewhere", replaced},
	} {
		fmt.Printf("| %s | %s | %.2f | %.2f | %.2f |\n", row.of, row.until, median(row.took), percentile(row.took, 95), slices.Max(row.took))
	}
	return nil
}

// percentile is the nearest rank.
func percentile(v []float64, p float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[max(0, int(math.Ceil(p/100*float64(len(v))))-1)]
}

// serve runs the service that clients call. Its tasks go back to a node that was away.
func (f *failover) serve(ctx context.Context) error {
	replicas := uint64(failoverTasks)
	_, err := f.nodes["node1"].ServiceCreate(ctx, client.ServiceCreateOptions{Spec: swarm.ServiceSpec{
		Annotations:  swarm.Annotations{Name: "web", Labels: map[string]string{"mesh.rebalance": "auto"}},
		TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: benchImage}},
		Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
		UpdateConfig: &swarm.UpdateConfig{Order: swarm.UpdateOrderStartFirst, Monitor: time.Second},
		EndpointSpec: &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 8080, PublishedPort: failoverPort, Protocol: network.TCP}}},
	}})
	if err != nil {
		return err
	}
	return f.calm(ctx)
}

// calm waits until all nodes are ready and have tasks, and then a while.
func (f *failover) calm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := until(ctx, func() (bool, error) {
		nodes, err := f.nodes["node1"].NodeList(ctx, client.NodeListOptions{})
		if err != nil {
			return false, nil // no leader yet
		}
		ready := 0
		for _, n := range nodes.Items {
			if n.Status.State == swarm.NodeStateReady {
				ready++
			}
		}
		on, err := f.running(ctx, "node1")
		return err == nil && ready == failoverNodes && len(on) == failoverNodes, nil
	})
	if err != nil {
		return fmt.Errorf("the cluster does not come to rest: %w", err)
	}
	time.Sleep(settle)
	return nil
}

// running counts the service's tasks that run, by node ID.
func (f *failover) running(ctx context.Context, asked string) (map[string]int, error) {
	running, err := runningTasks(ctx, f.nodes[asked], "web")
	on := map[string]int{}
	for _, t := range running {
		on[t.NodeID]++
	}
	return on, err
}

// leader is the name of the node that leads.
func (f *failover) leader(ctx context.Context) (string, error) {
	nodes, err := f.nodes["node1"].NodeList(ctx, client.NodeListOptions{})
	for _, n := range nodes.Items {
		if n.ManagerStatus != nil && n.ManagerStatus.Leader {
			return n.Description.Hostname, nil
		}
	}
	return "", errors.Join(err, errors.New("no node leads"))
}

// loseLeader is how long the slowest write took, in seconds: the one that the cut met.
func (f *failover) loseLeader(ctx context.Context) (float64, error) {
	lead, err := f.leader(ctx)
	if err != nil {
		return 0, err
	}
	asked := "node1"
	if lead == asked {
		asked = "node2"
	}
	cut := make(chan error, 1)
	go func() {
		time.Sleep(settle / 3)
		cut <- f.Kill(ctx, lead)
	}()
	var longest time.Duration
	for end := time.Now().Add(3 * settle); time.Now().Before(end); {
		begun := time.Now()
		if err := until(ctx, func() (bool, error) { return f.write(ctx, asked), nil }); err != nil {
			return 0, err
		}
		longest = max(longest, time.Since(begun))
	}
	if err := errors.Join(<-cut, f.Start(ctx, lead)); err != nil {
		return 0, err
	}
	return longest.Seconds(), f.calm(ctx)
}

func (f *failover) write(ctx context.Context, asked string) bool {
	f.writes++
	spec := swarm.ConfigSpec{Annotations: swarm.Annotations{Name: fmt.Sprint("write", f.writes)}, Data: []byte("x")}
	_, err := f.nodes[asked].ConfigCreate(ctx, client.ConfigCreateOptions{Spec: spec})
	return err == nil
}

// loseWorker is how long after the cut calls began that failed, and when as many tasks as
// before ran on the others, in seconds.
func (f *failover) loseWorker(ctx context.Context, worker string) (out, replaced float64, err error) {
	var probes []*probe.Probe
	for name, addr := range f.addrs {
		if name == worker {
			continue
		}
		p, err := probe.Start(f.Lab, probe.Spec{
			Node: lab.Client, Sample: f.sample, Target: fmt.Sprintf("http://%s:%d/", addr, failoverPort),
			Every: 20 * time.Millisecond, Timeout: time.Second,
		})
		if err != nil {
			return 0, 0, err
		}
		probes = append(probes, p)
	}
	time.Sleep(settle)
	self, err := f.nodes["node1"].NodeInspect(ctx, worker, client.NodeInspectOptions{})
	if err != nil {
		return 0, 0, err
	}
	cut := time.Now()
	if err := f.Kill(ctx, worker); err != nil {
		return 0, 0, err
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = until(bounded, func() (bool, error) {
		on, err := f.running(ctx, "node1")
		elsewhere := 0
		for node, n := range on {
			if node != self.Node.ID {
				elsewhere += n
			}
		}
		return elsewhere == failoverTasks, err
	})
	if err != nil {
		return 0, 0, err
	}
	replaced = time.Since(cut).Seconds()
	time.Sleep(settle)
	for _, p := range probes {
		if err := p.Stop(); err != nil {
			return 0, 0, err
		}
		for _, s := range p.Failures(cut, time.Now()) {
			out = max(out, s.Start.Sub(cut).Seconds())
		}
	}
	if err := f.Start(ctx, worker); err != nil {
		return 0, 0, err
	}
	return out, replaced, f.calm(ctx)
}
