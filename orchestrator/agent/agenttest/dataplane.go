package agenttest

import (
	"context"
	"fmt"
	"sync"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// Dataplane is a fake agent.Dataplane. It holds a view as soon as it gets it,
// unless it is told to wait.
type Dataplane struct {
	mu      sync.Mutex
	view    agent.View
	held    map[string]uint64
	frozen  bool
	taken   map[uint32]string
	routes  map[string]string
	changed chan struct{}
}

// NewDataplane returns a data plane that holds nothing.
func NewDataplane() *Dataplane {
	return &Dataplane{held: map[string]uint64{}, changed: make(chan struct{})}
}

// Freeze stops it from holding new revisions; Thaw lets it catch up.
func (d *Dataplane) Freeze() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.frozen = true
}

// Thaw lets it hold the newest view.
func (d *Dataplane) Thaw() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.frozen = false
	d.holdLocked()
}

// View is the newest one.
func (d *Dataplane) View() agent.View {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.view
}

// Update implements agent.Dataplane.
func (d *Dataplane) Update(v agent.View) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.view = v
	if !d.frozen {
		d.holdLocked()
	}
}

func (d *Dataplane) holdLocked() {
	d.held = map[string]uint64{}
	for _, n := range d.view.Networks {
		d.held[n.ID] = n.Revision
	}
	close(d.changed)
	d.changed = make(chan struct{})
}

// Ready implements agent.Dataplane.
func (d *Dataplane) Ready(ctx context.Context, id string, revision uint64) error {
	for {
		held, changed := d.Held()
		if at, ok := held[id]; ok && at >= revision {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Take lets a process of the node have a port; empty: nobody.
func (d *Dataplane) Take(port uint32, process string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.taken = map[uint32]string{port: process}
}

// Free implements agent.Dataplane.
func (d *Dataplane) Free(ports []swarm.PortConfig) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range ports {
		if who := d.taken[p.PublishedPort]; who != "" {
			return fmt.Errorf("port %d is in use by %s", p.PublishedPort, who)
		}
	}
	return nil
}

// Route has a route of the node lead to the addresses of a network, by ID.
func (d *Dataplane) Route(network, route string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.routes = map[string]string{network: route}
}

// Overlap implements agent.Dataplane.
func (d *Dataplane) Overlap(n protocol.Network) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if route := d.routes[n.ID]; route != "" {
		return fmt.Errorf("network %s overlaps %s", n.Name, route)
	}
	return nil
}

// Held implements agent.Dataplane.
func (d *Dataplane) Held() (map[string]uint64, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held, d.changed
}
