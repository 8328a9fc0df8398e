package dispatcher

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// feed is one network as all nodes see it, and what changed in it lately. The
// mesh network, which every task is on, is cut down to the services that publish
// ports; each node's own tasks come on top (own.go).
//
// A commit says which tasks and services to look at again (mark); they are built
// when somebody asks (refresh), from the view of that moment. That may be newer
// than the commit, so each service and endpoint is as it was at the feed's
// revision or later. A feed begins with everything marked: there is no other way
// to build a network.
type feed struct {
	id, name string
	mesh     bool
	revision uint64
	// next is the revision that the next refresh leads to.
	next uint64
	// moments are when the newest revisions came up, oldest first.
	moments []moment
	// tasks and services are to be looked at again; of services all their tasks.
	tasks, services map[string]bool

	now struct {
		services  map[string]protocol.Service
		endpoints map[string]protocol.Endpoint
		// of are the tasks with endpoints by service.
		of map[string]map[string]bool
	}
	// news are the keys that changed, oldest first; dropped counts those that were
	// forgotten before them.
	news    []key
	dropped int
	// whole are all keys, sorted; nil: not known.
	whole []key
	// sharing counts the times that a service came or went.
	sharing int
}

// moment is when a revision came up.
type moment struct {
	revision uint64
	at       time.Time
}

// maxMoments bounds them: of a node that misses more it is enough to know that it
// lags for at least as long.
const maxMoments = 64

// key names a service or a task's endpoint.
type key struct {
	endpoint bool
	id       string
}

// minNews is how many changes a feed remembers at least; a node that missed more
// is better off with a snapshot.
const minNews = 256

// newFeed builds a feed; its revision is the newest commit that was taken in, which
// the view may be ahead of.
func newFeed(v *store.View, n *store.Network, revision uint64) *feed {
	f := &feed{
		id: n.ID, name: n.Spec.Name, mesh: n.Spec.Ingress, next: revision,
		tasks: map[string]bool{}, services: map[string]bool{},
	}
	f.now.services = map[string]protocol.Service{}
	f.now.endpoints = map[string]protocol.Endpoint{}
	f.now.of = map[string]map[string]bool{}
	for _, s := range v.Services() {
		if f.mesh && len(published(s)) > 0 || !f.mesh && wants(s, n) {
			f.services[s.ID] = true
		}
	}
	for _, t := range v.TasksOnNetwork(n.ID) {
		f.tasks[t.ID] = true
	}
	f.build(v, n)
	f.dropped, f.news = len(f.news), nil
	return f
}

// mark notes what a commit touched.
func (f *feed) mark(index uint64, now time.Time, tasks, services map[string]bool) {
	if index <= f.revision {
		return
	}
	f.next = max(f.next, index)
	if len(f.moments) == maxMoments {
		f.moments = f.moments[1:]
	}
	f.moments = append(f.moments, moment{index, now})
	maps.Copy(f.tasks, tasks)
	maps.Copy(f.services, services)
}

// knows says that a service is described here, or has tasks here.
func (f *feed) knows(service string) bool {
	_, ok := f.now.services[service]
	return ok || f.now.of[service] != nil || f.services[service]
}

// refresh builds what was marked.
func (f *feed) refresh(v *store.View, n *store.Network) {
	if f.next != f.revision {
		f.build(v, n)
	}
}

func (f *feed) build(v *store.View, n *store.Network) {
	for id := range f.services {
		for _, t := range v.TasksOfService(id) {
			f.tasks[t.ID] = true
		}
		maps.Copy(f.tasks, f.now.of[id])
	}
	for id := range f.tasks {
		f.refreshTask(v, n, id)
	}
	for id := range f.services {
		f.refreshService(v, n, id)
	}
	clear(f.tasks)
	clear(f.services)
	f.revision = f.next
	if limit := max(minNews, len(f.now.endpoints)+len(f.now.services)); len(f.news) > 2*limit {
		f.dropped += len(f.news) - limit
		f.news = slices.Clone(f.news[len(f.news)-limit:])
	}
}

// refreshTask takes in a task's endpoint as it is now, and has its services
// looked at: a service may be shown only for its tasks.
func (f *feed) refreshTask(v *store.View, n *store.Network, id string) {
	old, had := f.now.endpoints[id]
	e, has := protocol.Endpoint{}, false
	if t := v.Task(id); t != nil && (!f.mesh || publishes(v, t.ServiceID)) {
		e, has = buildEndpoint(v, t, n.ID)
	}
	if had == has && reflect.DeepEqual(old, e) {
		return
	}
	if had {
		f.services[old.ServiceID] = true
		delete(f.now.endpoints, id)
		delete(f.now.of[old.ServiceID], id)
		if len(f.now.of[old.ServiceID]) == 0 {
			delete(f.now.of, old.ServiceID)
		}
	}
	if has {
		f.services[e.ServiceID] = true
		f.now.endpoints[id] = e
		if f.now.of[e.ServiceID] == nil {
			f.now.of[e.ServiceID] = map[string]bool{}
		}
		f.now.of[e.ServiceID][id] = true
	}
	f.note(key{endpoint: true, id: id}, had != has)
}

func (f *feed) refreshService(v *store.View, n *store.Network, id string) {
	old, had := f.now.services[id]
	s, has := protocol.Service{}, false
	switch stored := v.Service(id); {
	case stored == nil:
	case f.mesh && len(published(stored)) > 0, !f.mesh && (wants(stored, n) || f.now.of[id] != nil):
		s, has = buildService(stored, n), true
	}
	if had == has && reflect.DeepEqual(old, s) {
		return
	}
	if has {
		f.now.services[id] = s
	} else {
		delete(f.now.services, id)
	}
	if had != has {
		f.sharing++
	}
	f.note(key{id: id}, had != has)
}

func (f *feed) note(k key, reordered bool) {
	f.news = append(f.news, k)
	if reordered {
		f.whole = nil
	}
}

// missed says since when a node has missed something whose kernel holds no more than
// a revision; zero: it misses nothing.
func (f *feed) missed(held uint64) time.Time {
	for _, m := range f.moments {
		if m.revision > held {
			return m.at
		}
	}
	return time.Time{}
}

// position is where the news end.
func (f *feed) position() int { return f.dropped + len(f.news) }

// since is what changed after a position; ok is false when that is not known any more.
func (f *feed) since(position int) (c protocol.NetworkChange, ok bool) {
	if position < f.dropped {
		return c, false
	}
	seen := map[key]bool{}
	for _, k := range f.news[position-f.dropped:] {
		if !seen[k] {
			seen[k] = true
			f.describe(k, &c)
		}
	}
	return c, true
}

// fromNothing is a change that makes the network.
func (f *feed) fromNothing() protocol.NetworkChange {
	if f.whole == nil {
		for id := range f.now.services {
			f.whole = append(f.whole, key{id: id})
		}
		for id := range f.now.endpoints {
			f.whole = append(f.whole, key{endpoint: true, id: id})
		}
		slices.SortFunc(f.whole, func(a, b key) int { return cmp.Compare(a.id, b.id) })
	}
	var c protocol.NetworkChange
	for _, k := range f.whole {
		f.describe(k, &c)
	}
	return c
}

// describe adds what a key stands for now.
func (f *feed) describe(k key, c *protocol.NetworkChange) {
	if k.endpoint {
		if e, ok := f.now.endpoints[k.id]; ok {
			c.Endpoints = append(c.Endpoints, e)
		} else {
			c.EndpointsGone = append(c.EndpointsGone, k.id)
		}
		return
	}
	if s, ok := f.now.services[k.id]; ok {
		c.Services = append(c.Services, s)
	} else {
		c.ServicesGone = append(c.ServicesGone, k.id)
	}
}

func publishes(v *store.View, service string) bool {
	s := v.Service(service)
	return s != nil && len(published(s)) > 0
}
