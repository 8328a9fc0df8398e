package agent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// picture is what the managers said last. It stays when they fall silent.
type picture struct {
	mu       sync.Mutex
	nodes    map[string]protocol.Node
	keys     [][]byte
	epoch    uint64 // of the nodes' WireGuard keys
	networks map[string]protocol.Network
	tasks    map[string]protocol.Assignment
	ended    map[string]bool
	// index is the newest raft index that a manager told of; doubt is when an
	// older picture was first refused for it.
	index   uint64
	doubt   time.Time
	changed chan struct{}
}

func newPicture(saved []protocol.Assignment, index uint64) *picture {
	p := &picture{
		index:    index,
		nodes:    map[string]protocol.Node{},
		networks: map[string]protocol.Network{},
		tasks:    map[string]protocol.Assignment{},
		ended:    map[string]bool{},
		changed:  make(chan struct{}),
	}
	for _, a := range saved {
		p.tasks[a.Task.ID] = a
	}
	return p
}

// delta is what a message changed, as far as someone has to act on it.
type delta struct {
	// View: the data plane must be told.
	View bool
	// Set and Gone are the tasks to run anew or differently, and not any more.
	Set  []protocol.Assignment
	Gone []string
	// Full: every task is known now.
	Full bool
	// NetworksGone: networks of the engine may be superfluous.
	NetworksGone bool
}

// errMissed: the manager's next message does not follow the last one.
var errMissed = errors.New("a change of a network was missed")

// apply takes in a message, or nothing of it.
func (p *picture) apply(m protocol.Message) (delta, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	networks, err := p.changedLocked(m)
	if err != nil {
		return delta{}, err
	}
	d := delta{NetworksGone: len(m.NetworksGone) > 0}
	p.networks = networks
	if len(m.Nodes)+len(m.NodesGone) > 0 {
		p.applyNodesLocked(m)
		d.View = true
	}
	if m.GossipKeys != nil {
		p.keys, d.View = m.GossipKeys, true
	}
	if m.Encryption != nil {
		p.epoch, d.View = m.Encryption.Epoch, true
	}
	if len(m.Networks)+len(m.NetworksGone) > 0 {
		d.View = true
	}
	if m.Tasks != nil {
		p.applyTasksLocked(*m.Tasks, &d)
	}
	if d.View {
		close(p.changed)
		p.changed = make(chan struct{})
	}
	return d, nil
}

func (p *picture) applyNodesLocked(m protocol.Message) {
	if m.Tasks != nil && m.Tasks.Full {
		clear(p.nodes)
	}
	for _, n := range m.Nodes {
		p.nodes[n.ID] = n
	}
	for _, id := range m.NodesGone {
		delete(p.nodes, id)
	}
}

// changedLocked are the networks after a message. A full one names them all.
func (p *picture) changedLocked(m protocol.Message) (map[string]protocol.Network, error) {
	out := maps.Clone(p.networks)
	if m.Tasks != nil && m.Tasks.Full {
		clear(out)
	}
	for _, c := range m.Networks {
		n, ok := c.On(out[c.ID])
		if !ok {
			return nil, fmt.Errorf("network %s: %w", c.Name, errMissed)
		}
		out[c.ID] = n
	}
	for _, id := range m.NetworksGone {
		delete(out, id)
	}
	return out, nil
}

// behind says whether a message shows an older state than this node was told of
// before; acting on it would end tasks that only a lagging manager does not know.
// After patience it is believed all the same: the cluster may have been restored
// from an older state.
func (p *picture) behind(m protocol.Message, now time.Time, patience time.Duration) (seen uint64, behind bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.Tasks == nil || m.Tasks.Index == 0 {
		return p.index, false
	}
	if !m.Tasks.Full || m.Tasks.Index >= p.index {
		p.index, p.doubt = max(p.index, m.Tasks.Index), time.Time{}
		return p.index, false
	}
	if p.doubt.IsZero() {
		p.doubt = now
	}
	if now.Sub(p.doubt) < patience {
		return p.index, true
	}
	p.index, p.doubt = m.Tasks.Index, time.Time{}
	return p.index, false
}

func (p *picture) applyTasksLocked(t protocol.Tasks, d *delta) {
	d.View, d.Set, d.Gone, d.Full = true, t.Set, slices.Clone(t.Remove), t.Full
	if t.Full {
		set := map[string]bool{}
		for _, a := range t.Set {
			set[a.Task.ID] = true
		}
		for id := range p.tasks {
			if !set[id] {
				d.Gone = append(d.Gone, id)
			}
		}
	}
	for _, a := range t.Set {
		p.tasks[a.Task.ID] = a
	}
	for _, id := range d.Gone {
		delete(p.tasks, id)
		delete(p.ended, id)
	}
}

// end marks a task whose addresses are not its own any more.
func (p *picture) end(taskID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.tasks[taskID]; ok {
		p.ended[taskID] = true
	}
}

func (p *picture) view() View {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := View{GossipKeys: p.keys, KeyEpoch: p.epoch}
	v.Nodes = slices.SortedFunc(maps.Values(p.nodes), func(a, b protocol.Node) int { return cmp.Compare(a.ID, b.ID) })
	v.Networks = slices.SortedFunc(maps.Values(p.networks), func(a, b protocol.Network) int { return cmp.Compare(a.ID, b.ID) })
	for _, a := range p.tasks {
		if !p.ended[a.Task.ID] && tasklife.Rank(a.Task.Status.State) < tasklife.Rank(swarm.TaskStateComplete) {
			v.Tasks = append(v.Tasks, a)
		}
	}
	slices.SortFunc(v.Tasks, byTaskID)
	return v
}

// stopping says that managers know that a node shuts down.
func (p *picture) stopping(node string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes[node].Stopping
}

// assignments returns all of them, and the index they are of.
func (p *picture) assignments() ([]protocol.Assignment, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Values(p.tasks), byTaskID), p.index
}

// networkIDs are the networks that this node has a part in, those of tasks
// included whose state is yet to come.
func (p *picture) networkIDs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := maps.Clone(p.networks)
	for _, t := range p.tasks {
		for _, att := range t.Task.NetworksAttachments {
			ids[att.Network.ID] = protocol.Network{}
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

// network returns a network as it is known now, and a channel that is closed
// when the picture has changed.
func (p *picture) network(id string) (n protocol.Network, known bool, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, known = p.networks[id]
	return n, known, p.changed
}

func byTaskID(a, b protocol.Assignment) int { return cmp.Compare(a.Task.ID, b.Task.ID) }
