package dispatcher

import (
	"reflect"
	"slices"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// subscription is what a session has sent of one network.
type subscription struct {
	feed     *feed
	position int
	revision uint64
	own      *own
}

// own are, on the mesh network, a node's tasks of services that publish nothing,
// and these services: nobody else needs to know them.
type own struct {
	// sharing is the feed's, when all tasks were looked at last.
	sharing   int
	services  map[string]protocol.Service
	endpoints map[string]protocol.Endpoint
	// of counts the endpoints of each service.
	of map[string]int
}

func newOwn(sharing int) *own {
	return &own{sharing: sharing, services: map[string]protocol.Service{}, endpoints: map[string]protocol.Endpoint{}, of: map[string]int{}}
}

// look takes in tasks of a node as they are now, and adds to a change what the node
// has to be told for that; f is the mesh network as all nodes know it. What the feed
// knows by now is not gone; what it does not know any more may be the node's own.
func (o *own) look(v *store.View, n *store.Network, f *feed, nodeID string, tasks map[string]bool, c *protocol.NetworkChange) {
	services := map[string]bool{}
	for id := range tasks {
		old, had := o.endpoints[id]
		e, is := ownEndpoint(v, n, f, nodeID, id)
		if had {
			services[old.ServiceID] = true
			o.of[old.ServiceID]--
			delete(o.endpoints, id)
		}
		if is {
			services[e.ServiceID] = true
			o.of[e.ServiceID]++
			o.endpoints[id] = e
		}
		switch {
		case is && (!had || !reflect.DeepEqual(old, e) || slices.Contains(c.EndpointsGone, id)):
			c.Endpoints = append(c.Endpoints, e)
		case had && !is && !has(f.now.endpoints, id):
			c.EndpointsGone = append(c.EndpointsGone, id)
		}
	}
	for id := range services {
		o.lookService(v, n, f, id, c)
	}
}

func (o *own) lookService(v *store.View, n *store.Network, f *feed, id string, c *protocol.NetworkChange) {
	old, had := o.services[id]
	stored := v.Service(id)
	if o.of[id] == 0 {
		delete(o.of, id)
		stored = nil
	}
	if stored == nil {
		delete(o.services, id)
		if had && !has(f.now.services, id) {
			c.ServicesGone = append(c.ServicesGone, id)
		}
		return
	}
	s := buildService(stored, n)
	s.Ports = nil // as long as the feed does not tell, nobody else knows them
	o.services[id] = s
	if !had || !reflect.DeepEqual(old, s) || slices.Contains(c.ServicesGone, id) {
		c.Services = append(c.Services, s)
	}
}

func ownEndpoint(v *store.View, n *store.Network, f *feed, nodeID, id string) (protocol.Endpoint, bool) {
	t := v.Task(id)
	if t == nil || t.NodeID != nodeID || has(f.now.services, t.ServiceID) {
		return protocol.Endpoint{}, false
	}
	return buildEndpoint(v, t, n.ID)
}

func has[V any](m map[string]V, k string) bool {
	_, ok := m[k]
	return ok
}

// marks are what a session knows to be taken in: every commit up to base, and those
// that it looks at now. Its revisions may be called by them.
type marks struct {
	base uint64
	look stale
}

// follow returns what a node has to be told of a network after what it was told
// (old, the zero value for nothing), and what it was told then. tell is false
// when there is nothing to tell.
func (c *cache) follow(v *store.View, n *store.Network, nodeID string, m marks, old subscription) (change protocol.NetworkChange, next subscription, tell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.feeds[n.ID]
	if f == nil {
		f = newFeed(v, n, c.done)
		f.moments = []moment{{f.revision, c.clock()}}
		c.feeds[n.ID] = f
	}
	f.refresh(v, n)
	next = subscription{feed: f, position: f.position(), revision: max(f.revision, m.base), own: old.own}
	known := false
	if old.feed == f {
		change, known = f.since(old.position)
	}
	if known {
		change.From = old.revision
	} else {
		change, next.own = f.fromNothing(), nil
	}
	if n.Spec.Ingress {
		next.lookAtOwn(v, n, nodeID, m.look.tasks, &change)
	}
	if known && old.revision >= next.revision && empty(change) {
		next.revision = old.revision
		return change, next, false
	}
	if n.Spec.Ingress {
		next.revision = max(next.revision, m.look.own)
	}
	next.revision = max(next.revision, old.revision)
	head := headOf(n)
	head.Revision, head.Services, head.Endpoints = next.revision, change.Services, change.Endpoints
	change.Network = head
	return change, next, true
}

// lookAtOwn adds the node's own tasks on the mesh network: those that may differ or,
// when others are shared with all nodes than before, every one.
func (s *subscription) lookAtOwn(v *store.View, n *store.Network, nodeID string, tasks map[string]bool, c *protocol.NetworkChange) {
	if s.own == nil || s.own.sharing != s.feed.sharing {
		tasks = map[string]bool{}
		for _, t := range v.TasksOnNode(nodeID) {
			tasks[t.ID] = true
		}
		if s.own == nil {
			s.own = newOwn(s.feed.sharing)
		}
		for id := range s.own.endpoints {
			tasks[id] = true
		}
		s.own.sharing = s.feed.sharing
	}
	s.own.look(v, n, s.feed, nodeID, tasks, c)
}

func empty(c protocol.NetworkChange) bool {
	return len(c.Services)+len(c.Endpoints)+len(c.ServicesGone)+len(c.EndpointsGone) == 0
}
