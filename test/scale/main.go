// Command scale measures the control plane with more nodes than a machine can
// hold: three managers, a process each, with raft on disk and TLS, and one process
// that plays the agents of all nodes over the real protocol. Only containers and
// kernels are missing. It prints a table.
//
//	scale -nodes 1000 -services 900 -replicas 100 -large 10000
//
// | process     | is                                                          |
// |-------------|-------------------------------------------------------------|
// | coordinator | the one that was started: creates services, takes the time  |
// | manager, 3  | meshd.Standalone; tells of its state in lines on stdout     |
// | agents      | the simulated nodes; takes orders on stdin, tells on stdout |
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// The roles of the processes, as first argument.
const (
	roleManager = "manager"
	roleAgents  = "agents"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case roleManager:
			return runManager(ctx, args[1:])
		case roleAgents:
			return runAgents(ctx, args[1:])
		}
	}
	s := scenario{out: os.Stdout, progress: os.Stderr}
	f := flag.NewFlagSet("scale", flag.ContinueOnError)
	f.StringVar(&s.dir, "dir", "", "where the managers keep their state; a new directory if empty")
	f.IntVar(&s.nodes, "nodes", 1000, "simulated nodes")
	f.IntVar(&s.services, "services", 900, "how many services to create")
	f.IntVar(&s.replicas, "replicas", 100, "tasks of each")
	f.IntVar(&s.large, "large", 10000, "tasks of one more service, which is updated in the end")
	f.IntVar(&s.networks, "networks", 0, "overlay networks, of which the services have one each in turn")
	f.Uint64Var(&s.parallelism, "parallelism", 500, "of the update")
	f.DurationVar(&s.start, "start", 300*time.Millisecond, "how long a simulated container takes to start")
	f.DurationVar(&s.rest, "rest", 20*time.Second, "how long to look at the managers at rest")
	f.DurationVar(&s.patience, "patience", 10*time.Minute, "the most that one step may take")
	f.BoolVar(&s.pprof, "pprof", false, "managers serve profiles on a port that they tell")
	if err := f.Parse(args); err != nil {
		return err
	}
	return s.run(ctx)
}
