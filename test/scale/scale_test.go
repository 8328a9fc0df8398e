package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
)

// The test's processes are this program, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == roleManager || os.Args[1] == roleAgents) {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestSmallCluster runs the whole measurement, small.
func TestSmallCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: takes seconds")
	}
	var out bytes.Buffer
	s := scenario{
		dir: t.TempDir(), nodes: 10, services: 4, replicas: 5, large: 20, networks: 2, parallelism: 10,
		start: 10 * time.Millisecond, rest: 100 * time.Millisecond, patience: 3 * time.Minute, out: &out, progress: os.Stderr,
	}
	if err := s.run(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, row := range []string{
		"10 nodes, 40 tasks", "all nodes joined", "all tasks placed", "memory", "at rest", "update of 20 tasks, 10 at a time", "loss of 1 nodes", "restarted",
	} {
		if !strings.Contains(out.String(), row) {
			t.Errorf("the table has no row %q:\n%s", row, out.String())
		}
	}
}

func TestCensus(t *testing.T) {
	s, prop := storetest.New()
	c := newCensus()
	w := s.Watch(c.reset)
	defer w.Close()
	do := func(fn func(*store.Tx)) {
		t.Helper()
		storetest.Do(t, s, prop, fn)
		for len(w.C) > 0 {
			for _, e := range (<-w.C).Events {
				c.observe(e)
			}
		}
		fresh := newCensus()
		s.View(fresh.reset)
		if fresh.state != c.state {
			t.Errorf("counted along %+v, counted anew %+v", c.state, fresh.state)
		}
	}
	do(func(tx *store.Tx) {
		for i := range 2 {
			n := &store.Node{}
			n.ID, n.Status.State = fmt.Sprint("n", i), swarm.NodeStateReady
			tx.Create(n)
			task := &store.Task{}
			task.ID, task.NodeID = fmt.Sprint("t", i), n.ID
			task.DesiredState, task.Status.State = swarm.TaskStateRunning, swarm.TaskStateRunning
			tx.Create(task)
		}
	})
	do(func(tx *store.Tx) {
		n := *tx.Node("n0")
		n.Status.State = swarm.NodeStateDown
		tx.Update(&n)
	})
	if want := (managerState{Nodes: 1, Down: 1, Tasks: 2, Run: 2, Stray: 1}); c.state != want {
		t.Errorf("got %+v, want %+v", c.state, want)
	}
	do(func(tx *store.Tx) {
		task := *tx.Task("t0")
		task.DesiredState = swarm.TaskStateShutdown
		tx.Update(&task)
		tx.Remove(tx.Task("t1"))
	})
	if want := (managerState{Nodes: 1, Down: 1}); c.state != want {
		t.Errorf("got %+v, want %+v", c.state, want)
	}
}

// A process that dies is an error of whoever waits for it.
func TestUntilNoticesTheEnd(t *testing.T) {
	p, err := spawn[managerState]("no manager", os.Stderr, roleManager, "-addr", "nowhere")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.until(ctx, "it is ready", func(s managerState) bool { return s.Ready }); err == nil || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
}

func TestUsed(t *testing.T) {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p := &process[managerState]{cmd: &exec.Cmd{Process: self}}
	for deadline := time.Now().Add(time.Minute); ; { // the clock of processes has ticks
		u, err := p.used()
		if err != nil || u.rss < 1<<20 || u.peak < u.rss {
			t.Fatalf("%+v, %v", u, err)
		}
		if u.cpu > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a minute's work took no time")
		}
	}
}
