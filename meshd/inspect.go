package meshd

import (
	"context"
	"maps"
	"time"

	"github.com/meshd/meshd/meshd/observe"
	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/overlay"
)

// look tells what the managers said, what that means for each part, and how far
// the kernel is with it. It changes nothing.
func (d *dataplane) look() observe.View {
	d.mu.Lock()
	self, view := d.self, d.view
	v := observe.View{
		Self: self.node, Told: len(view.Nodes) > 0,
		Nodes: view.Nodes, Networks: view.Networks, Tasks: view.Tasks,
		Held: maps.Clone(d.held), Behind: maps.Clone(d.behind),
	}
	d.mu.Unlock()
	if v.Told {
		v.Desired = plan.Compile(d.input(self, view))
	}
	return v
}

// mapFills says how full the kernel's maps of both halves of the data path are.
func mapFills(o *overlay.Overlay, b edgeBalancer) ([]observe.MapFill, error) {
	var out []observe.MapFill
	for name, f := range o.Fill() {
		out = append(out, observe.MapFill{Part: "overlay", Map: name, Entries: f.Entries, Capacity: f.Capacity})
	}
	fill, err := b.Fill()
	for name, f := range fill {
		out = append(out, observe.MapFill{Part: "balancer", Map: name, Entries: f.Entries, Capacity: f.Capacity})
	}
	return out, err
}

// noteBehind keeps since when the kernel has held less than was told. d.mu is held.
func (d *dataplane) noteBehind(now time.Time) {
	behind := map[string]time.Time{}
	for _, n := range d.view.Networks {
		if held, ok := d.held[n.ID]; ok && held >= n.Revision {
			continue
		}
		since, known := d.behind[n.ID]
		if !known {
			since = now
		}
		behind[n.ID] = since
	}
	d.behind = behind
}

// lookTime bounds the wait for this manager to have taken in what its store holds.
const lookTime = time.Second

// member tells where this node's part in the swarm stands.
func (d *Daemon) member() observe.Member {
	d.mu.Lock()
	n := d.node
	d.mu.Unlock()
	if n == nil {
		return observe.Member{}
	}
	m := observe.Member{CertificateExpires: n.keeper.NotAfter()}
	if a := n.agent.Load(); a != nil {
		m.Tasks = a.TaskStates()
	}
	if n.manager != nil {
		stats := n.manager.Stats()
		m.Raft = &stats
		ctx, cancel := context.WithTimeout(d.ctx, lookTime)
		defer cancel()
		var err error
		if m.Watched, m.Lags, err = n.manager.Watched(ctx); err != nil {
			d.log.Warn("which nodes lag cannot be told", "error", err)
		}
	}
	return m
}

// runningAgent makes the node's agent and lets others ask it.
func (n *node) runningAgent() *agent.Agent {
	a := n.newAgent()
	n.agent.Store(a)
	return a
}
