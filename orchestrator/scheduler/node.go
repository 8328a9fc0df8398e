package scheduler

import (
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

const (
	// maxFailures within failureWindow make a node the last choice for a service,
	// as in Swarm.
	maxFailures   = 5
	failureWindow = 5 * time.Minute
)

// version is a version of a service's template.
type version struct {
	service string
	number  uint64
}

// share is what each task of a version takes of its node.
type share struct {
	version version
	cpus    int64
	memory  int64
}

// use is what a task takes of its node.
type use struct {
	*share
	// active: it runs or shall run. What is being stopped holds its resources, but
	// does not count when tasks are spread.
	active bool
	// own is what no other task of the version takes; nil: nothing.
	own *own
}

// own are things of a node that only one task can have.
type own struct {
	generics []swarm.GenericResource
	ports    []hostPort
}

func ownOf(generics []swarm.GenericResource, ports []hostPort) *own {
	if len(generics)+len(ports) == 0 {
		return nil
	}
	return &own{generics, ports}
}

// node is a node with what its tasks take of it.
type node struct {
	*store.Node
	active    int
	byService map[string]int
	cpus      int64
	memory    int64
	ports     map[hostPort]int
	// special are the tasks that have something of their own, by ID. Most nodes have none,
	// as of failures.
	special  map[string]use
	failures map[version][]time.Time
}

func newNode(n *store.Node) *node {
	return &node{Node: n, byService: map[string]int{}}
}

// put enters a task (sign 1), or takes it out again (-1).
func (n *node) put(id string, u use, sign int) {
	if u.active {
		n.active += sign
		if n.byService[u.version.service] += sign; n.byService[u.version.service] == 0 {
			delete(n.byService, u.version.service)
		}
	}
	n.cpus += int64(sign) * u.cpus
	n.memory += int64(sign) * u.memory
	if u.own == nil {
		return
	}
	if n.special == nil {
		n.special, n.ports = map[string]use{}, map[hostPort]int{}
	}
	if n.special[id] = u; sign < 0 {
		delete(n.special, id)
	}
	for _, p := range u.own.ports {
		if n.ports[p] += sign; n.ports[p] == 0 {
			delete(n.ports, p)
		}
	}
}

// fail notes that a task failed here.
func (n *node) fail(v version, at time.Time) {
	recent := slices.DeleteFunc(n.failures[v], func(t time.Time) bool { return at.Sub(t) > failureWindow })
	if n.failures == nil {
		n.failures = map[version][]time.Time{}
	}
	n.failures[v] = append(recent, at)
}

// penalty is the number of recent failures, zero while they are few.
func (n *node) penalty(v version, now time.Time) int {
	count := 0
	for _, at := range n.failures[v] {
		if now.Sub(at) <= failureWindow {
			count++
		}
	}
	if count < maxFailures {
		return 0
	}
	return count
}

// generics chooses generic resources for a reservation; ok is false if the node
// has not enough of them left. Of named ones it takes as many as are asked for.
func (n *node) generics(want []swarm.GenericResource) (got []swarm.GenericResource, ok bool) {
	for _, w := range want {
		kind, count, name := generic(w)
		free, named := n.freeGenerics(kind)
		switch {
		case name != "":
			if !slices.Contains(named, name) {
				return nil, false
			}
			got = append(got, w)
		case int64(len(named)) >= count && len(named) > 0:
			for _, value := range named[:count] {
				got = append(got, swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: kind, Value: value}})
			}
		case free >= count:
			got = append(got, w)
		default:
			return nil, false
		}
	}
	return got, true
}

// freeGenerics is what the node has left of a kind: a count, or names.
func (n *node) freeGenerics(kind string) (count int64, names []string) {
	for _, r := range n.Description.Resources.GenericResources {
		if k, c, name := generic(r); k == kind && name != "" {
			names = append(names, name)
		} else if k == kind {
			count += c
		}
	}
	for _, u := range n.special {
		for _, r := range u.own.generics {
			if k, c, name := generic(r); k == kind && name != "" {
				names = slices.DeleteFunc(names, func(s string) bool { return s == name })
			} else if k == kind {
				count -= c
			}
		}
	}
	return count, names
}

func generic(r swarm.GenericResource) (kind string, count int64, name string) {
	switch {
	case r.NamedResourceSpec != nil:
		return r.NamedResourceSpec.Kind, 1, r.NamedResourceSpec.Value
	case r.DiscreteResourceSpec != nil:
		return r.DiscreteResourceSpec.Kind, r.DiscreteResourceSpec.Value, ""
	}
	return "", 0, ""
}
