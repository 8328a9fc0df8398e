package store

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/moby/moby/api/types/swarm"
)

// Indexes of the task table.
const (
	taskByService = iota
	taskByNode
	taskByNetwork
)

// ingressIndex is the one value of the networks' index.
const ingressIndex = "ingress"

// View is a consistent picture of the store, valid inside Store.View only; the
// objects it returns stay valid for ever, and must not be modified.
type View struct {
	index    uint64
	changed  uint64
	clusters *table[*Cluster]
	nodes    *table[*Node]
	services *table[*Service]
	specs    *table[*Spec]
	tasks    *table[*Task]
	networks *table[*Network]
	secrets  *table[*Secret]
	configs  *table[*Config]
}

func newView() View {
	one := func(s string) []string {
		if s == "" {
			return nil
		}
		return []string{s}
	}
	return View{
		clusters: newTable[*Cluster](nil),
		nodes:    newTable[*Node](nil),
		services: newTable(func(s *Service) string { return s.Spec.Name }),
		specs:    newTable(nil, func(s *Spec) []string { return one(s.ServiceID) }),
		tasks: newTable(nil,
			func(t *Task) []string { return one(t.ServiceID) },
			func(t *Task) []string { return one(t.NodeID) },
			func(t *Task) []string {
				var ids []string
				for _, a := range t.NetworksAttachments {
					ids = append(ids, a.Network.ID)
				}
				return ids
			}),
		networks: newTable(func(n *Network) string { return n.Spec.Name }, func(n *Network) []string {
			if n.Spec.Ingress {
				return one(ingressIndex)
			}
			return nil
		}),
		secrets: newTable(func(s *Secret) string { return s.Spec.Name }),
		configs: newTable(func(c *Config) string { return c.Spec.Name }),
	}
}

// Index is the raft index of the last applied batch.
func (v *View) Index() uint64 { return v.index }

// Changed is the raft index of the last batch that was not refused: the newest commit
// that watchers get.
func (v *View) Changed() uint64 { return v.changed }

// Cluster returns the cluster object, nil before the first is created.
func (v *View) Cluster() *Cluster { return v.clusters.get(ClusterID) }

// Node returns a node or nil.
func (v *View) Node(id string) *Node { return v.nodes.get(id) }

// Nodes lists all nodes by ID.
func (v *View) Nodes() []*Node { return v.nodes.all() }

// Service returns a service or nil.
func (v *View) Service(id string) *Service { return v.services.get(id) }

// ServiceByName returns a service or nil.
func (v *View) ServiceByName(name string) *Service { return v.services.byName(name) }

// Services lists all services by ID.
func (v *View) Services() []*Service { return v.services.all() }

// Spec returns a version of a service's task template, or nil.
func (v *View) Spec(serviceID string, number uint64) *Spec {
	return v.specs.get(SpecKey(serviceID, number))
}

// SpecsOf lists the stored task templates of a service.
func (v *View) SpecsOf(serviceID string) []*Spec { return v.specs.by(0, serviceID) }

// Task returns a task or nil.
func (v *View) Task(id string) *Task { return v.tasks.get(id) }

// Tasks lists all tasks by ID.
func (v *View) Tasks() []*Task { return v.tasks.all() }

// TasksOfService lists the tasks of a service, history included.
func (v *View) TasksOfService(id string) []*Task { return v.tasks.by(taskByService, id) }

// TasksOnNode lists the tasks placed on a node.
func (v *View) TasksOnNode(id string) []*Task { return v.tasks.by(taskByNode, id) }

// TasksOnNetwork lists the tasks attached to a network.
func (v *View) TasksOnNetwork(id string) []*Task { return v.tasks.by(taskByNetwork, id) }

// Network returns a network or nil.
func (v *View) Network(id string) *Network { return v.networks.get(id) }

// NetworkByName returns a network or nil.
func (v *View) NetworkByName(name string) *Network { return v.networks.byName(name) }

// Ingress returns the network of the routing mesh, nil if there is none.
func (v *View) Ingress() *Network {
	for _, n := range v.networks.by(0, ingressIndex) {
		return n
	}
	return nil
}

// Networks lists all networks by ID.
func (v *View) Networks() []*Network { return v.networks.all() }

// Secret returns a secret or nil.
func (v *View) Secret(id string) *Secret { return v.secrets.get(id) }

// Secrets lists all secrets by ID.
func (v *View) Secrets() []*Secret { return v.secrets.all() }

// Config returns a config or nil.
func (v *View) Config(id string) *Config { return v.configs.get(id) }

// Configs lists all configs by ID.
func (v *View) Configs() []*Config { return v.configs.all() }

// JoinTask returns the task as the API shows it: with its spec and the network
// objects of its attachments.
func (v *View) JoinTask(t *Task) swarm.Task {
	out := t.Task
	if s := v.Spec(t.ServiceID, t.SpecVersion); s != nil {
		out.Spec = s.Template
	}
	out.NetworksAttachments = make([]swarm.NetworkAttachment, len(t.NetworksAttachments))
	for i, a := range t.NetworksAttachments {
		if n := v.Network(a.Network.ID); n != nil {
			a.Network = n.Network
		}
		out.NetworksAttachments[i] = a
	}
	return out
}

// Store is one replica of the cluster's state.
type Store struct {
	mu       sync.RWMutex
	view     View
	watchers map[*Watcher]struct{}
}

// New returns an empty store.
func New() *Store {
	return &Store{view: newView(), watchers: map[*Watcher]struct{}{}}
}

// View calls fn with the current state; nothing changes while it runs, so fn
// must be short and must not call the store.
func (s *Store) View(fn func(*View)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	fn(&s.view)
}

// Changed is View's: the raft index of the newest commit that watchers get.
func (s *Store) Changed() (index uint64) {
	s.View(func(v *View) { index = v.Changed() })
	return index
}

// Apply executes a committed batch at its raft index. The error, if any, is a
// refusal that every replica makes alike; it is not a failure of this replica.
func (s *Store) Apply(index uint64, b Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.index = index
	if err := s.view.check(b); err != nil {
		return err
	}
	events := make([]Event, 0, len(b.Changes))
	for _, c := range b.Changes {
		old := s.view.lookup(c.Kind, c.Key)
		e := Event{Action: c.Action, Old: old}
		if c.Action == Remove {
			s.view.drop(c.Kind, c.Key)
		} else {
			o := c.result(old)
			m := o.meta()
			m.Version.Index, m.UpdatedAt = index, b.Time
			m.CreatedAt = b.Time
			if old != nil {
				m.CreatedAt = old.meta().CreatedAt
			}
			s.view.put(o)
			e.New = o
		}
		events = append(events, e)
	}
	s.view.changed = index
	s.notifyLocked(Commit{Index: index, Time: b.Time, Events: events})
	return nil
}

// result is the object as the change leaves it, for the store to keep.
func (c Change) result(old Object) Object {
	if c.patch != nil {
		return c.patch.on(old)
	}
	return c.Object.clone()
}

// check refuses a batch that was built on a state that is no longer so. A batch
// may touch an object once only; Tx users merge their changes per object.
func (v *View) check(b Batch) error {
	type id struct {
		kind Kind
		key  string
	}
	seen, names := make(map[id]bool, len(b.Changes)), map[id]bool{}
	for _, c := range b.Changes {
		if seen[id{c.Kind, c.Key}] {
			return fmt.Errorf("%s %s is changed twice in one batch: %w", c.Kind, c.Key, ErrSequence)
		}
		seen[id{c.Kind, c.Key}] = true
		old := v.lookup(c.Kind, c.Key)
		switch {
		case c.Action == Create && old != nil:
			return fmt.Errorf("%s %s: %w", c.Kind, c.Key, ErrExists)
		case c.Action != Create && (old == nil || old.meta().Version.Index != c.Base):
			return fmt.Errorf("%s %s: %w", c.Kind, c.Key, ErrSequence)
		}
		if c.Action == Create {
			name := nameOf(c.Object)
			if name != "" && (v.named(c.Kind, name) || names[id{c.Kind, name}]) {
				return fmt.Errorf("%s %s: %w", c.Kind, name, ErrNameConflict)
			}
			names[id{c.Kind, name}] = true
		}
	}
	return nil
}

// Snapshot returns a function that writes the state as it is now; taking it is
// cheap, writing may take its time.
func (s *Store) Snapshot() func(io.Writer) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	index, objects := s.view.index, s.view.objects()
	return func(w io.Writer) error {
		enc := json.NewEncoder(w)
		if err := enc.Encode(snapshotHeader{Format: 1, Index: index, Objects: len(objects)}); err != nil {
			return err
		}
		for _, o := range objects {
			if err := enc.Encode(snapshotRow{Kind: o.Kind(), Body: o}); err != nil {
				return err
			}
		}
		return nil
	}
}

type snapshotHeader struct {
	Format  int
	Index   uint64
	Objects int
}

type snapshotRow struct {
	Kind Kind
	Body any
}

// Restore replaces the state by a snapshot's. Watchers are cut off: they re-read.
func (s *Store) Restore(r io.Reader) error {
	dec := json.NewDecoder(r)
	var h snapshotHeader
	if err := dec.Decode(&h); err != nil {
		return fmt.Errorf("store: read snapshot: %w", err)
	}
	if h.Format != 1 {
		return fmt.Errorf("store: snapshot has format %d, this version reads 1", h.Format)
	}
	v := newView()
	v.index, v.changed = h.Index, h.Index
	for i := range h.Objects {
		var body json.RawMessage
		row := snapshotRow{Body: &body}
		if err := dec.Decode(&row); err != nil {
			return fmt.Errorf("store: read object %d of %d of the snapshot: %w", i, h.Objects, err)
		}
		o, err := decodeObject(row.Kind, body)
		if err != nil {
			return err
		}
		v.put(o)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view = v
	s.cutLocked()
	return nil
}
