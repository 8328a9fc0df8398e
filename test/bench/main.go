// Command bench measures a running cluster against what stands below it, in the
// same run and in turn, and prints medians with their ratio: machines differ and
// drift, ratios hold.
//
//	bench create    service create --replicas N until all tasks run, against N
//	                containers started straight through the engines' API
//	bench net       throughput, round trips and new connections between containers,
//	                through a VIP and a published port, against the bare nodes
//	                and Docker Swarm's own overlay
//	bench encryption
//	                one stream and eight, round trips and new connections on an
//	                encrypted network, against a clear one and a bare WireGuard
//	                device between the same nodes
//	bench failover  power cuts of the leader and of workers, until others have
//	                taken over
//	bench swarm     create, update, failures, requests, DNS, idle daemons: the
//	                same services on Docker Swarm and on meshd
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/meshd/meshd/overlay/wireguard"
	"github.com/meshd/meshd/test/lab"
)

func main() {
	if code, ran := lab.Reexec(); ran {
		os.Exit(code)
	}
	if len(os.Args) > 1 {
		if become := map[string]func([]string) error{wireguard.HelperCommand: wireguard.Serve, rawCommand: makeRaw}[os.Args[1]]; become != nil {
			exit(become(os.Args[2:]))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	exit(run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// benchmark is what runs on a lab of that shape.
type benchmark struct {
	nodes, managers int
	run             func(context.Context, *lab.Lab) error
}

func run(ctx context.Context) (err error) {
	rounds := flag.Int("rounds", 7, "how often each figure is taken")
	meshd := flag.String("meshd", "bin/meshd", "the daemon to measure")
	image := flag.String("image", "build/sample.tar", "the image to run")
	sample := flag.String("sample", "bin/sample", "the program that the nodes themselves run")
	services := flag.Int("services", 1000, "net: how many services to add for the last rows")
	tasks := flag.Int("tasks", 10, "swarm: of the service that is updated and loses tasks")
	figures := flag.String("figures", "", "swarm: some only: create, idle, requests, update, container, worker")
	nodes := flag.Int("nodes", 3, "swarm: of each cluster")
	flag.Parse()
	options := netOptions{rounds: *rounds, services: *services, sample: *sample, meshd: *meshd, image: *image}
	measure, ok := map[string]benchmark{
		"create":     {3, 3, func(ctx context.Context, l *lab.Lab) error { return benchCreate(ctx, l, *rounds) }},
		"net":        {3, 3, func(ctx context.Context, l *lab.Lab) error { return benchNet(ctx, l, options) }},
		"encryption": {3, 1, func(ctx context.Context, l *lab.Lab) error { return benchEncryption(ctx, l, options) }},
		"failover":   {failoverNodes, 3, func(ctx context.Context, l *lab.Lab) error { return benchFailover(ctx, l, *rounds, *sample) }},
		"swarm": {*nodes, 1, func(ctx context.Context, l *lab.Lab) error {
			return benchSwarm(ctx, l, rivalOptions{options, *tasks, *figures})
		}},
	}[flag.Arg(0)]
	if !ok {
		return errors.New("say what to measure: create, net, encryption, failover or swarm")
	}
	runs := *meshd
	if flag.Arg(0) == "net" || flag.Arg(0) == "encryption" {
		dir, err := os.MkdirTemp("", "meshd-bench")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if runs, err = tunnelling(dir, *meshd); err != nil {
			return err
		}
	}
	const name = "bench"
	if err := lab.Down(ctx, name, os.Stderr); err != nil {
		return err
	}
	l, err := lab.Up(ctx, lab.Options{Name: name, Nodes: measure.nodes, Managers: measure.managers, Meshd: runs, Progress: os.Stderr})
	defer func() {
		err = errors.Join(err, lab.Down(context.WithoutCancel(ctx), name, os.Stderr))
	}()
	if err != nil {
		return err
	}
	if err := l.Load(ctx, *image); err != nil {
		return err
	}
	return measure.run(ctx, l)
}
