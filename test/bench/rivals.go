package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/slowness"
)

// rival is one of the two systems, Docker Swarm and meshd: clusters of the same shape, one manager and workers, with the same services on a network of the
// same kind, driven through the same API.
type rival struct {
	*netBench
	name    string
	daemons []string // what runs on each node beside containers and their shims
	// vips: services have virtual addresses, and ports in the routing mesh.
	vips  bool
	tasks int               // of web
	node  map[string]string // names by ID

	server, caller instance // on node2 and node1; the server answers bench-client
}

type rivalOptions struct {
	netOptions
	tasks   int    // of web
	figures string // names of steps, with commas; empty: all
}

// benchSwarm prints a table of all figures, each of which is taken from one rival and then from the other.
func benchSwarm(ctx context.Context, l *lab.Lab, o rivalOptions) (err error) {
	steps, err := chooseSteps(o.figures)
	if err != nil {
		return err
	}
	ours, err := newNetBench(ctx, l, o.netOptions, nil)
	if err != nil {
		return err
	}
	their, end, err := engineLab(ctx, len(ours.address), o.netOptions)
	defer func() { err = errors.Join(err, end()) }()
	if err != nil {
		return err
	}
	engines, err := dockerSwarm(ctx, their)
	if err != nil {
		return fmt.Errorf("Docker's own swarm: %w", err)
	}
	theirs, err := newNetBench(ctx, their, o.netOptions, nil)
	if err != nil {
		return err
	}
	theirs.api = engines[0]
	rivals := []*rival{
		{netBench: theirs, name: "Docker Swarm", daemons: []string{lab.Engine, "containerd"}},
		{netBench: ours, name: "meshd", daemons: []string{lab.Engine, "containerd", lab.Meshd}},
	}
	t := newTable(rivals[0].name, rivals[1].name, created(one), created(o.tasks), created(many))
	vips := hasIPVS()
	for _, r := range rivals {
		r.vips, r.tasks = vips, o.tasks
		if err := r.deploy(ctx); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	for round := range o.rounds {
		for _, s := range steps {
			if err := s.take(ctx, rivals, t); err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, s.name, err)
			}
		}
		slices.Reverse(rivals) // the second meets the machine as the first has left it
	}
	t.print(os.Stdout)
	return nil
}

// hasIPVS says whether the kernel has what Docker Swarm needs for virtual addresses and the routing mesh.
func hasIPVS() bool {
	_ = exec.Command("modprobe", "-q", "ip_vs").Run() // what counts is whether it is there now
	_, err := os.Stat("/proc/net/ip_vs")
	return err == nil
}

// deploy makes the network, and the services that stay.
func (r *rival) deploy(ctx context.Context) error {
	if err := r.whole(ctx); err != nil {
		return err
	}
	if err := r.onNetwork(ctx, "bench", nil); err != nil {
		return err
	}
	server := r.replicas("server", 1, "sample", "bench-serve")
	server.EndpointSpec = r.endpoint(swarm.PortConfig{TargetPort: netPort, PublishedPort: published})
	server.EndpointSpec.Ports = append(server.EndpointSpec.Ports,
		swarm.PortConfig{Protocol: "tcp", TargetPort: netPort, PublishedPort: onHost, PublishMode: swarm.PortConfigPublishModeHost})
	var err error
	if r.server, err = r.start(ctx, server, "node2"); err != nil {
		return err
	}
	r.caller, err = r.start(ctx, r.replicas("caller", 1, "sleep"), "node1")
	return err
}

// endpoint publishes a port in the routing mesh; where Docker Swarm has none, the name leads to the tasks themselves.
func (r *rival) endpoint(port swarm.PortConfig) *swarm.EndpointSpec {
	if !r.vips {
		return &swarm.EndpointSpec{Mode: swarm.ResolutionModeDNSRR}
	}
	port.Protocol = "tcp"
	return &swarm.EndpointSpec{Mode: swarm.ResolutionModeVIP, Ports: []swarm.PortConfig{port}}
}

// whole waits until all nodes are ready, and keeps their names.
func (r *rival) whole(ctx context.Context) error {
	r.node = map[string]string{}
	return r.wait(ctx, func(ctx context.Context) (bool, error) {
		nodes, err := r.api.NodeList(ctx, client.NodeListOptions{})
		ready := 0
		for _, n := range nodes.Items {
			if n.Status.State == swarm.NodeStateReady {
				ready++
			}
			r.node[n.ID] = n.Description.Hostname
		}
		return ready == len(r.address), err
	})
}

func (r *rival) wait(ctx context.Context, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, slowness.Stretch(limit))
	defer cancel()
	return untilEvery(ctx, relaxed, func() (bool, error) { return done(ctx) })
}

// step takes figures that belong together.
type step struct {
	name   string
	always bool // the others need it
	take   func(context.Context, []*rival, *table) error
}

func allSteps() []step {
	return []step{
		{"create", false, inTurn((*rival).create)},
		{web, true, inTurn((*rival).createWeb)},
		{"idle", false, idle},
		{"requests", false, inTurn((*rival).requests)},
		{"update", false, inTurn((*rival).update)},
		{"container", false, inTurn((*rival).loseContainer)},
		{"worker", false, inTurn((*rival).loseWorker)},
		{"end", true, inTurn(func(r *rival, ctx context.Context, _ *table) error { return r.remove(ctx, web) })},
	}
}

func inTurn(take func(*rival, context.Context, *table) error) func(context.Context, []*rival, *table) error {
	return func(ctx context.Context, rivals []*rival, t *table) error {
		for _, r := range rivals {
			if err := take(r, ctx, t); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
		return nil
	}
}

// chooseSteps are those named, and what they need, in their order.
func chooseSteps(names string) (chosen []step, err error) {
	wanted := map[string]bool{}
	for name := range strings.SplitSeq(names, ",") {
		wanted[name] = true
	}
	for _, s := range allSteps() {
		if s.always || names == "" || wanted[s.name] {
			chosen = append(chosen, s)
		}
		delete(wanted, s.name)
	}
	for name := range wanted {
		if name != "" {
			return nil, fmt.Errorf("no figures %q: create, idle, requests, update, container or worker", name)
		}
	}
	return chosen, nil
}
