package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/slowness"
)

const (
	netPort   = 7000        // of the server, in containers and on nodes
	published = 7001        // of the service
	onHost    = 7002        // of its task, in mode host
	returning = 7003        // of the one whose answers return directly
	netTime   = time.Second // of one measurement

	firstOther  = 20000 // published port of the first of many services
	maxServices = 10000
	atOnce      = 16 // services are made at once
)

// mode is what is measured, in units per second.
type mode struct {
	name    string // of bench-client
	unit    string
	per     float64
	streams int // at once
}

func netModes() []mode {
	return []mode{{"stream", "Gbit/s", 8e-9, 1}, {"echo", "round trips/s", 1, 1}, {"connect", "connections/s", 1, 1}}
}

type netOptions struct {
	rounds, services int
	sample           string
	meshd, image     string
}

// way is a client and what it calls.
type way struct {
	name   string
	node   string // of the client, or lab.Client
	pid    int    // of the client's container; zero: the node itself
	target string
	// against are the ways that this one is compared to.
	against []string
	// again: also beside many services.
	again bool
	// lab is another one than meshd's, if not nil.
	lab *lab.Lab
}

// netBench is the cluster with all that is measured.
type netBench struct {
	netOptions
	modes   []mode
	lab     *lab.Lab
	api     *client.Client
	network string            // of services
	address map[string]string // of nodes
}

func newNetBench(ctx context.Context, l *lab.Lab, o netOptions, modes []mode) (*netBench, error) {
	b := &netBench{netOptions: o, modes: modes, lab: l, address: map[string]string{}}
	var err error
	if b.sample, err = filepath.Abs(o.sample); err != nil {
		return nil, err
	}
	nodes, err := l.Ls(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		b.address[n.Name] = n.Address
	}
	b.api, err = l.MeshdClient("node1")
	return b, err
}

// benchNet prints a table for each mode: what each way does, and the ratio to the way that it is compared to, in the same round.
func benchNet(ctx context.Context, l *lab.Lab, o netOptions) error {
	if o.services > maxServices {
		return fmt.Errorf("%d services: there are published ports for %d", o.services, maxServices)
	}
	b, err := newNetBench(ctx, l, o, netModes())
	if err != nil {
		return err
	}
	return b.run(ctx)
}

func (b *netBench) run(ctx context.Context) (err error) {
	stop := b.serveOn("node2", b.address["node2"])
	defer func() { err = errors.Join(err, stop()) }()
	ways, err := b.deploy(ctx)
	if err != nil {
		return err
	}
	theirs, end, err := b.besideSwarm(ctx)
	defer func() { err = errors.Join(err, end()) }()
	if err != nil {
		return err
	}
	ways = append(ways, theirs...)
	results := map[string][]float64{}
	if err := b.measure(ctx, ways, results); err != nil {
		return err
	}
	more, err := b.manyServices(ctx, ways)
	if err != nil {
		return err
	}
	if err := b.measure(ctx, more, results); err != nil {
		return err
	}
	b.print(append(ways, more...), results)
	return nil
}

// serveOn runs the server on a node itself, at one of its addresses; call the result to end it.
func (b *netBench) serveOn(node, addr string) (stop func() error) {
	cmd := exec.Command(b.sample, "bench-serve", "-listen", at(addr, netPort))
	done := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		done <- b.lab.Exec(node, cmd)
	}()
	<-started
	return func() error {
		if cmd.Process == nil {
			return <-done
		}
		return errors.Join(cmd.Process.Signal(os.Interrupt), <-done)
	}
}

// tunnelOnly is the node that takes no packets without VXLAN.
const tunnelOnly = "node3"

// tunnelling gives a program that runs meshd, without direct routing on tunnelOnly. It is in dir.
func tunnelling(dir, meshd string) (string, error) {
	meshd, err := filepath.Abs(meshd)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "meshd")
	script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in */%s/*) exec '%s' \"$@\" --direct-routing=off;; esac\nexec '%[2]s' \"$@\"\n", tunnelOnly, meshd)
	return path, os.WriteFile(path, []byte(script), 0o755)
}

// onNetwork makes a network for the services that follow.
func (b *netBench) onNetwork(ctx context.Context, name string, options map[string]string) error {
	n, err := b.api.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "overlay", Scope: "swarm", Options: options})
	b.network = n.ID
	return err
}

// deploy starts the services and says which ways there are.
func (b *netBench) deploy(ctx context.Context) ([]way, error) {
	if err := b.onNetwork(ctx, "bench", nil); err != nil {
		return nil, err
	}
	far, err := b.service(ctx, "far", "node2", "sample", "bench-serve")
	if err != nil {
		return nil, err
	}
	tunnelled, err := b.service(ctx, "tunnelled", tunnelOnly, "sample", "bench-serve")
	if err != nil {
		return nil, err
	}
	if _, err := b.service(ctx, "returning", "node2", "sample", "bench-serve"); err != nil {
		return nil, err
	}
	near, err := b.service(ctx, "near", "node1", "sample", "bench-serve")
	if err != nil {
		return nil, err
	}
	caller, err := b.service(ctx, "caller", "node1", "sleep")
	if err != nil {
		return nil, err
	}
	return []way{
		{name: bareNodes, again: true, node: "node1", target: at(b.address["node2"], netPort)},
		{name: acrossNodes, again: true, node: "node1", pid: caller.pid, target: at(far.addr, netPort), against: []string{bareNodes}},
		{name: byVXLAN, node: "node1", pid: caller.pid, target: at(tunnelled.addr, netPort), against: []string{bareNodes, acrossNodes}},
		{name: "container to container, same node", node: "node1", pid: caller.pid, target: at(near.addr, netPort), against: []string{bareNodes}},
		{name: "VIP, across nodes", again: true, node: "node1", pid: caller.pid, target: at(far.vip, netPort), against: []string{acrossNodes}},
		{name: bareOutside, again: true, node: lab.Client, target: at(b.address["node2"], netPort)},
		{name: hostMode, node: lab.Client, target: at(b.address["node2"], onHost), against: []string{bareOutside}},
		{name: "published port, task on the entry node", node: lab.Client, target: at(b.address["node2"], published), against: []string{bareOutside, hostMode}},
		{name: farPort, again: true, node: lab.Client, target: at(b.address["node1"], published), against: []string{bareOutside, hostMode}},
		{
			name: "published port, task on another node, mesh.ingress=dsr", node: lab.Client, target: at(b.address["node1"], returning),
			against: []string{bareOutside, farPort},
		},
	}, nil
}

func at(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// Names of ways that others are compared to.
const (
	bareNodes   = "node to node, bare"
	acrossNodes = "container to container, across nodes"
	byVXLAN     = "container to container, across nodes, by VXLAN"
	bareOutside = "outside to node, bare"
	hostMode    = "published in mode host"
	farPort     = "published port, task on another node"
)

// instance is a service of one task.
type instance struct {
	addr, vip string
	pid       int
}

// replicas is the spec of a service of n tasks on the network.
func (b *netBench) replicas(name string, n int, args ...string) swarm.ServiceSpec {
	count := uint64(n)
	return swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: name},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{Image: benchImage, Args: args},
			Networks:      []swarm.NetworkAttachmentConfig{{Target: b.network}},
		},
		Mode: swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &count}},
	}
}

func (b *netBench) service(ctx context.Context, name, node string, args ...string) (instance, error) {
	spec := b.replicas(name, 1, args...)
	switch name {
	case "returning":
		spec.Labels = map[string]string{"mesh.ingress": "dsr"}
		spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: network.TCP, TargetPort: netPort, PublishedPort: returning}}}
	case "far":
		spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{
			{Protocol: network.TCP, TargetPort: netPort, PublishedPort: published},
			{Protocol: network.TCP, TargetPort: netPort, PublishedPort: onHost, PublishMode: swarm.PortConfigPublishModeHost},
		}}
	}
	return b.start(ctx, spec, node)
}

// start has a service's one task run on a node.
func (b *netBench) start(ctx context.Context, spec swarm.ServiceSpec, node string) (instance, error) {
	name := spec.Name
	spec.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.hostname==" + node}}
	created, err := b.api.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec})
	if err != nil {
		return instance{}, fmt.Errorf("service %s: %w", name, err)
	}
	var out instance
	var seen swarm.TaskStatus
	limited, cancel := context.WithTimeout(ctx, slowness.Stretch(limit))
	defer cancel()
	err = untilEvery(limited, relaxed, func() (bool, error) {
		r, err := b.api.TaskList(limited, client.TaskListOptions{Filters: make(client.Filters).Add("service", created.ID)})
		i := slices.IndexFunc(r.Items, func(t swarm.Task) bool { return t.DesiredState == swarm.TaskStateRunning }) // not one that failed before it
		if err != nil || i < 0 {
			return false, err
		}
		task := r.Items[i]
		if seen = task.Status; seen.State != swarm.TaskStateRunning {
			return false, nil
		}
		for _, a := range task.NetworksAttachments {
			if a.Network.ID == b.network {
				out.addr = a.Addresses[0].Addr().String()
			}
		}
		out.pid, err = b.pid(limited, node, seen.ContainerStatus.ContainerID)
		return true, err
	})
	if err != nil {
		return out, fmt.Errorf("service %s: %w; a task of it is %s: %s", name, err, seen.State, cmp.Or(seen.Err, seen.Message))
	}
	r, err := b.api.ServiceInspect(ctx, created.ID, client.ServiceInspectOptions{})
	for _, v := range r.Service.Endpoint.VirtualIPs {
		if v.NetworkID == b.network {
			out.vip = v.Addr.Addr().String()
		}
	}
	return out, err
}

func (b *netBench) pid(ctx context.Context, node, container string) (int, error) {
	engine, err := b.lab.EngineClient(node)
	if err != nil {
		return 0, err
	}
	defer engine.Close()
	c, err := engine.ContainerInspect(ctx, container, client.ContainerInspectOptions{})
	if err != nil {
		return 0, err
	}
	return c.Container.State.Pid, nil
}

// manyServices adds services to the network that have no task, and returns the ways to measure again.
func (b *netBench) manyServices(ctx context.Context, ways []way) ([]way, error) {
	start := time.Now()
	making, mctx := errgroup.WithContext(ctx)
	making.SetLimit(atOnce)
	for i := range b.services {
		making.Go(func() error {
			if err := b.idleService(mctx, i); err != nil {
				return fmt.Errorf("service %d of %d: %w", i, b.services, err)
			}
			return nil
		})
	}
	if err := making.Wait(); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "%d services made in %.1fs\n", b.services, time.Since(start).Seconds())
	suffix := fmt.Sprintf(", beside %d services", b.services)
	var out []way
	for _, w := range ways {
		if !w.again {
			continue
		}
		w.name += suffix
		var against []string // in the same rounds
		for _, name := range w.against {
			if name != hostMode {
				against = append(against, name+suffix)
			}
		}
		w.against = against
		out = append(out, w)
	}
	return out, nil
}

// idleService makes the i-th of many: without a task, with a virtual address and a published port.
func (b *netBench) idleService(ctx context.Context, i int) error {
	spec := b.replicas(fmt.Sprintf("other%d", i), 0)
	port := swarm.PortConfig{Protocol: network.TCP, TargetPort: netPort, PublishedPort: uint32(firstOther + i)}
	spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{port}}
	_, err := b.api.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec})
	return err
}

// measure takes all ways in turn, so that what the machine does besides hits all alike.
func (b *netBench) measure(ctx context.Context, ways []way, results map[string][]float64) error {
	for round := range b.rounds + 1 {
		for _, w := range ways {
			for _, m := range b.modes {
				value, err := b.once(w, m)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", w.name, m.unit, err)
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				fmt.Fprintf(os.Stderr, "round %d: %s: %.2f %s\n", round, w.name, value, m.unit)
				if round > 0 { // the first warms caches
					results[m.unit+w.name] = append(results[m.unit+w.name], value)
				}
			}
		}
	}
	return nil
}

// once takes a figure in the mode's unit.
func (b *netBench) once(w way, m mode) (float64, error) {
	args := []string{b.sample}
	if w.pid != 0 {
		args = []string{"nsenter", "-t", strconv.Itoa(w.pid), "-n", "-m", "/bin/sample"}
	}
	args = append(args, "bench-client", "-mode", m.name, "-streams", strconv.Itoa(m.streams), "-for", netTime.String(), w.target)
	cmd := exec.Command(args[0], args[1:]...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	in := b.lab
	if w.lab != nil {
		in = w.lab
	}
	if err := in.Exec(w.node, cmd); err != nil {
		return 0, fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaint.Bytes()))
	}
	value, err := strconv.ParseFloat(strings.TrimSpace(out.String()), 64)
	return value * m.per, err
}

func (b *netBench) print(ways []way, results map[string][]float64) {
	for _, m := range b.modes {
		fmt.Printf("\n| %s | median (range) | ratio (median of rounds) | to |\n|---|---|---|---|\n", m.unit)
		for _, w := range ways {
			v := results[m.unit+w.name]
			if len(w.against) == 0 {
				fmt.Printf("| %s | %s (%s-%s) |  |  |\n", w.name, short(median(v)), short(slices.Min(v)), short(slices.Max(v)))
			}
			for _, to := range w.against {
				ratio := median(ratios(v, results[m.unit+to]))
				fmt.Printf("| %s | %s (%s-%s) | %.2f | %s |\n", w.name, short(median(v)), short(slices.Min(v)), short(slices.Max(v)), ratio, to)
			}
		}
	}
}

func ratios(v, to []float64) []float64 {
	out := make([]float64, len(v))
	for i := range v {
		out[i] = v[i] / to[i]
	}
	return out
}

// short has three digits that count.
func short(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
