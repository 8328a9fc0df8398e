package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/procfs"

	"github.com/meshd/meshd/test/lab"
)

// requests takes what the server answers each way, and the resolver, to eight at once.
func (r *rival) requests(_ context.Context, t *table) error {
	const atOnce = 8
	ways := []way{
		{name: "task's address, across nodes", node: "node1", pid: r.caller.pid, target: at(r.server.addr, netPort)},
		{name: "port in mode host", node: lab.Client, target: at(r.address["node2"], onHost)},
	}
	if r.vips {
		ways = append(ways,
			way{name: "VIP, across nodes", node: "node1", pid: r.caller.pid, target: at(r.server.vip, netPort)},
			way{name: "ingress, task on another node", node: lab.Client, target: at(r.address["node1"], published)})
	}
	for _, w := range ways {
		for _, m := range []mode{{"echo", "requests/s", 1, atOnce}, {"connect", "new connections/s", 1, atOnce}} {
			if err := r.note(t, w, m); err != nil {
				return err
			}
		}
	}
	names := way{name: "name of a service", node: "node1", pid: r.caller.pid, target: "server"}
	return r.note(t, names, mode{"lookup", "DNS queries/s", 1, atOnce})
}

func (r *rival) note(t *table, w way, m mode) error {
	value, err := r.once(w, m)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", w.name, m.unit, err)
	}
	t.add(w.name+", "+m.unit, r.name, value)
	return nil
}

// idleTime is how long the daemons are watched.
const idleTime = 10 * time.Second

// idle takes memory and processor time of daemons that have nothing to do, of both rivals at the same time.
func idle(ctx context.Context, rivals []*rival, t *table) error {
	time.Sleep(settle)
	before, err := useOf(rivals)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(idleTime):
	}
	after, err := useOf(rivals)
	if err != nil {
		return err
	}
	for _, r := range rivals {
		for _, role := range []string{"manager", "worker"} {
			var memory, cpu float64
			for _, d := range r.daemons {
				k := daemon{r.name, role, d}
				m, c := after[k].memory, (after[k].cpu-before[k].cpu)/idleTime.Seconds()
				if d == lab.Meshd {
					t.add("idle "+role+": meshd's memory, MiB", r.name, m)
					t.add("idle "+role+": meshd's CPU, % of a core", r.name, 100*c)
				}
				memory, cpu = memory+m, cpu+c
			}
			t.add("idle "+role+": daemons' memory, MiB", r.name, memory)
			t.add("idle "+role+": daemons' CPU, % of a core", r.name, 100*cpu)
		}
	}
	return nil
}

// daemon is one of a node; all workers count as one.
type daemon struct{ rival, role, name string }

// use is what a daemon has: MiB that are resident, seconds of processor time so far.
type use struct{ memory, cpu float64 }

func useOf(rivals []*rival) (map[daemon]use, error) {
	all := map[daemon]use{}
	for _, r := range rivals {
		for node := range r.address {
			role, share := "manager", 1.0
			if node != "node1" {
				role, share = "worker", 1/float64(len(r.address)-1)
			}
			for _, d := range r.daemons {
				u, err := r.useOn(node, d)
				if err != nil {
					return nil, fmt.Errorf("%s: %s on %s: %w", r.name, d, node, err)
				}
				k := daemon{r.name, role, d}
				all[k] = use{all[k].memory + share*u.memory, all[k].cpu + share*u.cpu}
			}
		}
	}
	return all, nil
}

func (r *rival) useOn(node, name string) (u use, err error) {
	pids, err := r.lab.Processes(node, name)
	if err != nil {
		return u, err
	}
	for _, pid := range pids {
		p, err := procfs.NewProc(pid)
		if err != nil {
			return u, err
		}
		s, err := p.Stat()
		if err != nil {
			return u, err
		}
		u.memory, u.cpu = u.memory+float64(s.ResidentMemory())/(1<<20), u.cpu+s.CPUTime()
	}
	return u, nil
}
