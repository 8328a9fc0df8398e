package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/slowness"
)

const (
	benchImage = "meshd/sample:latest"
	// poll is how often the API is asked whether all run; it bounds the error.
	poll = 5 * time.Millisecond
	// relaxed is the same where what the answers cost would be in the figures, or where none is taken.
	relaxed = 40 * time.Millisecond
	// limit bounds one measurement.
	limit = 5 * time.Minute
)

// creator starts and removes containers in one of the two ways.
type creator struct {
	cluster *client.Client
	engines []*client.Client
}

// benchCreate prints a table: for each size the medians of both ways and the
// ratio of each pair's, taken in turn.
func benchCreate(ctx context.Context, l *lab.Lab, rounds int) error {
	c, err := newCreator(ctx, l)
	if err != nil {
		return err
	}
	fmt.Println("| replicas | service create to all running, s | engines' API, s | ratio (median of pairs) |")
	fmt.Println("|---|---|---|---|")
	for _, n := range []int{1, 10, 30} {
		var ours, engines, ratios []float64
		for round := range rounds + 1 {
			a, err := c.service(ctx, n)
			if err != nil {
				return fmt.Errorf("service of %d: %w", n, err)
			}
			b, err := c.raw(ctx, n)
			if err != nil {
				return fmt.Errorf("%d containers: %w", n, err)
			}
			fmt.Fprintf(os.Stderr, "replicas %d round %d: meshd %.3fs engines %.3fs\n", n, round, a.Seconds(), b.Seconds())
			if round == 0 {
				continue // warms caches
			}
			ours, engines, ratios = append(ours, a.Seconds()), append(engines, b.Seconds()), append(ratios, a.Seconds()/b.Seconds())
		}
		fmt.Printf("| %d | %.2f (%.2f-%.2f) | %.2f (%.2f-%.2f) | %.2f |\n", n,
			median(ours), slices.Min(ours), slices.Max(ours), median(engines), slices.Min(engines), slices.Max(engines), median(ratios))
	}
	return nil
}

func newCreator(ctx context.Context, l *lab.Lab) (*creator, error) {
	c := &creator{}
	nodes, err := l.Ls(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		e, err := l.EngineClient(n.Name)
		if err != nil {
			return nil, err
		}
		c.engines = append(c.engines, e)
	}
	c.cluster, err = l.MeshdClient(nodes[0].Name)
	return c, err
}

// service measures from the request until the API says that all tasks run.
func (c *creator) service(ctx context.Context, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	replicas := uint64(n)
	start := time.Now()
	r, err := c.cluster.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: swarm.ServiceSpec{
		Annotations:  swarm.Annotations{Name: "bench"},
		TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: benchImage}},
		Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
	}})
	if err != nil {
		return 0, err
	}
	err = until(ctx, func() (bool, error) {
		running, err := runningTasks(ctx, c.cluster, "bench")
		return len(running) == n, err
	})
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	if _, err := c.cluster.ServiceRemove(ctx, r.ID, client.ServiceRemoveOptions{}); err != nil {
		return 0, err
	}
	return took, until(ctx, func() (bool, error) { return c.empty(ctx) })
}

// runningTasks are the tasks of a service that run and shall.
func runningTasks(ctx context.Context, api *client.Client, service string) (running []swarm.Task, err error) {
	r, err := api.TaskList(ctx, client.TaskListOptions{Filters: make(client.Filters).Add("service", service).Add("desired-state", "running")})
	for _, t := range r.Items {
		if t.Status.State == swarm.TaskStateRunning {
			running = append(running, t)
		}
	}
	return running, err
}

// empty says whether no engine has a container any more.
func (c *creator) empty(ctx context.Context) (bool, error) {
	for _, e := range c.engines {
		r, err := e.ContainerList(ctx, client.ContainerListOptions{All: true})
		if err != nil || len(r.Items) > 0 {
			return false, err
		}
	}
	return true, nil
}

// raw starts n containers without a network, spread over the engines, all at once.
func (c *creator) raw(ctx context.Context, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ids := make([]string, n)
	start := time.Now()
	var g errgroup.Group
	for i := range n {
		g.Go(func() error {
			e := c.engines[i%len(c.engines)]
			r, err := e.ContainerCreate(ctx, client.ContainerCreateOptions{
				Config: &container.Config{Image: benchImage}, HostConfig: &container.HostConfig{NetworkMode: "none"},
			})
			if err != nil {
				return err
			}
			ids[i] = r.ID
			_, err = e.ContainerStart(ctx, r.ID, client.ContainerStartOptions{})
			return err
		})
	}
	err := g.Wait()
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	for i, id := range ids {
		g.Go(func() error {
			_, err := c.engines[i%len(c.engines)].ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true})
			return err
		})
	}
	return took, g.Wait()
}

func until(ctx context.Context, done func() (bool, error)) error { return untilEvery(ctx, poll, done) }

// untilEvery asks in this beat.
func untilEvery(ctx context.Context, beat time.Duration, done func() (bool, error)) error {
	tick := time.NewTicker(slowness.Stretch(beat))
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}
