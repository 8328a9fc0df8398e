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
	own      own
}

// own are, on the mesh network, a node's tasks of services that publish nothing,
// and these services: nobody else needs to know them.
type own struct {
	services  map[string]protocol.Service
	endpoints map[string]protocol.Endpoint
}

// ownOn lists them; f is the mesh network as all nodes know it.
func ownOn(v *store.View, n *store.Network, f *feed, nodeID string) own {
	out := own{services: map[string]protocol.Service{}, endpoints: map[string]protocol.Endpoint{}}
	if !n.Spec.Ingress {
		return out
	}
	for _, t := range v.TasksOnNode(nodeID) {
		if _, shared := f.now.services[t.ServiceID]; shared {
			continue
		}
		e, ok := buildEndpoint(v, t, n.ID)
		if !ok {
			continue
		}
		out.endpoints[t.ID] = e
		if s := v.Service(t.ServiceID); s != nil {
			s := buildService(s, n)
			s.Ports = nil // as long as the feed does not tell, nobody else knows them
			out.services[s.ID] = s
		}
	}
	return out
}

// addTo adds to a change what o has and old had not, and the reverse. What the
// feed knows by now is not gone; what it does not know any more may be our own.
func (o own) addTo(c *protocol.NetworkChange, old own, f *feed) {
	for id, e := range o.endpoints {
		if was, ok := old.endpoints[id]; !ok || !reflect.DeepEqual(was, e) || slices.Contains(c.EndpointsGone, id) {
			c.Endpoints = append(c.Endpoints, e)
		}
	}
	for id, s := range o.services {
		if was, ok := old.services[id]; !ok || !reflect.DeepEqual(was, s) || slices.Contains(c.ServicesGone, id) {
			c.Services = append(c.Services, s)
		}
	}
	for id := range old.endpoints {
		if _, shared := f.now.endpoints[id]; !shared && !has(o.endpoints, id) {
			c.EndpointsGone = append(c.EndpointsGone, id)
		}
	}
	for id := range old.services {
		if _, shared := f.now.services[id]; !shared && !has(o.services, id) {
			c.ServicesGone = append(c.ServicesGone, id)
		}
	}
}

func has[V any](m map[string]V, k string) bool {
	_, ok := m[k]
	return ok
}

// marks are the newest commits that a session knows to be taken in: any, and one
// that touched the node's own tasks. Its revisions may be called by them.
type marks struct{ base, own uint64 }

// follow returns what a node has to be told of a network after what it was told
// (old, the zero value for nothing), and what it was told then. tell is false
// when there is nothing to tell.
func (c *cache) follow(v *store.View, n *store.Network, nodeID string, m marks, old subscription) (change protocol.NetworkChange, next subscription, tell bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.feeds[n.ID]
	if f == nil {
		f = newFeed(v, n)
		f.moments = []moment{{f.revision, c.clock()}}
		c.feeds[n.ID] = f
	}
	f.refresh(v, n)
	next = subscription{feed: f, position: f.position(), revision: max(f.revision, m.base)}
	if n.Spec.Ingress {
		next.revision = max(next.revision, m.own)
	}
	if old.feed == f && old.revision >= next.revision {
		return change, old, false
	}
	known := false
	if old.feed == f {
		change, known = f.since(old.position)
	}
	if known {
		change.From = old.revision
	} else {
		change, old.own = f.fromNothing(), own{}
	}
	next.own = ownOn(v, n, f, nodeID)
	next.own.addTo(&change, old.own, f)
	head := headOf(n)
	head.Revision, head.Services, head.Endpoints = next.revision, change.Services, change.Endpoints
	change.Network = head
	return change, next, true
}
