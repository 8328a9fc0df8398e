package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/orchestrator/admission"
)

const (
	// joinsAtOnce is how many nodes join together.
	joinsAtOnce = 16
	// joinTries is how often a node tries to join: managers may be busy.
	joinTries = 20
	// firstAddr begins the addresses of nodes, of a range where nobody answers (RFC 6666).
	firstAddr = "100::1"
)

// agentsState is what the agents' process tells.
type agentsState struct {
	Joined, Sessions int64
	// Run are the tasks that run, as far as their nodes are concerned.
	Run int64
}

// counters are the same, counted by all nodes.
type counters struct{ joined, sessions, run atomic.Int64 }

// runAgents plays the agents of many nodes.
func runAgents(ctx context.Context, args []string) error {
	f := flag.NewFlagSet(roleAgents, flag.ContinueOnError)
	dir := f.String("dir", "", "the nodes' certificates")
	count := f.Int("count", 0, "how many nodes")
	managers := f.String("managers", "", "host:port, separated by commas")
	token := f.String("token", "", "join token")
	start := f.Duration("start", 0, "how long a container takes to start")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	g, life := errgroup.WithContext(ctx)
	var total counters
	addrs := strings.Split(*managers, ",")
	kills := make([]context.CancelFunc, *count)
	turns := make(chan struct{}, joinsAtOnce)
	at := netip.MustParseAddr(firstAddr)
	for i := range *count {
		n := newNode(fmt.Sprintf("sim%04d", i), at, addrs)
		n.first, n.start, n.total = i, *start, &total
		at = at.Next()
		var powered context.Context
		powered, kills[i] = context.WithCancel(life)
		g.Go(func() error {
			turns <- struct{}{}
			err := n.join(life, filepath.Join(*dir, n.name), *token)
			for try := 1; err != nil && try < joinTries && life.Err() == nil; try++ {
				pause(life, again)
				err = n.join(life, filepath.Join(*dir, n.name), *token)
			}
			<-turns
			if err != nil {
				return err
			}
			total.joined.Add(1)
			return n.run(powered)
		})
	}
	g.Go(func() error { return tellAgents(life, &total, os.Stdout) })
	go func() {
		obey(os.Stdin, kills)
		end() // the coordinator is gone
	}()
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// obey reads orders, "kill N": the power of the first N nodes is cut.
func obey(r io.Reader, kills []context.CancelFunc) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "kill %d", &n); err != nil || n > len(kills) {
			fmt.Fprintf(os.Stderr, "agents: cannot obey %q\n", lines.Text())
			continue
		}
		for _, kill := range kills[:n] {
			kill()
		}
	}
}

func tellAgents(ctx context.Context, total *counters, w io.Writer) error {
	enc := json.NewEncoder(w)
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	var told agentsState
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := agentsState{Joined: total.joined.Load(), Sessions: total.sessions.Load(), Run: total.run.Load()}
		if now == told {
			continue
		}
		told = now
		if err := enc.Encode(now); err != nil {
			return err
		}
	}
}

// join has the cluster admit the node.
func (n *node) join(ctx context.Context, dir, token string) error {
	k, _, err := joinAs(ctx, dir, n.addrs[n.first%len(n.addrs)], token, admission.Candidate{
		Description: describe(n.name, 64), Addr: netip.AddrPortFrom(n.at, 2377).String(), DataAddr: n.at,
	})
	if err != nil {
		return fmt.Errorf("%s joins: %w", n.name, err)
	}
	n.with(k)
	return nil
}

// describe is a machine with so many CPUs.
func describe(name string, cpus int64) swarm.NodeDescription {
	return swarm.NodeDescription{
		Hostname:  name,
		Platform:  swarm.Platform{OS: "linux", Architecture: "x86_64"},
		Resources: swarm.Resources{NanoCPUs: cpus * 1e9, MemoryBytes: cpus << 32},
		Engine:    swarm.EngineDescription{EngineVersion: "28.0.0"},
	}
}
