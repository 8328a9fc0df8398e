package scheduler

import (
	"cmp"
	"fmt"
	"time"

	"github.com/google/btree"

	"github.com/meshd/meshd/orchestrator/placement"
)

// order holds the nodes that take new tasks and satisfy some rules, those with the
// fewest tasks first. Most tasks are of services with fewer tasks than there are
// nodes: they go to the first node that has none of the service, which is found
// without a look at the others.
//
// A service that has tasks on nearly every node finds none so. It gets an order of its
// own, in which those with the fewest of its own tasks come before all, if its tasks keep
// coming a few at a time: many at a time are ranked together (rank.go).
type order struct {
	rules placement.Rules
	// service, if set, is the one whose order it is.
	service string
	tree    *btree.BTree // of place
	at      map[*node]place
}

// place is where a node stands.
type place struct {
	own, active int
	node        *node
}

// Less implements btree.Item.
func (p place) Less(than btree.Item) bool {
	q := than.(place)
	return cmp.Or(cmp.Compare(p.own, q.own), cmp.Compare(p.active, q.active), cmp.Compare(p.node.ID, q.node.ID)) < 0
}

// degree of the tree: a few cache lines for each of its nodes.
const degree = 16

func newOrder(r placement.Rules, service string, nodes map[string]*node) *order {
	o := &order{rules: r, service: service, tree: btree.New(degree), at: map[*node]place{}}
	for _, n := range nodes {
		o.look(n, false)
	}
	return o
}

func (o *order) placeOf(n *node) place {
	if o.service == "" {
		return place{active: n.active, node: n}
	}
	return place{n.byService[o.service], n.active, n}
}

// look takes a node in or out, which changed or, if so, is gone.
func (o *order) look(n *node, gone bool) {
	_, in := o.at[n]
	admit := !gone && placement.Open(n.Node) && o.rules.Allow(n.Node)
	switch {
	case admit && !in:
		o.at[n] = o.placeOf(n)
		o.tree.ReplaceOrInsert(o.at[n])
	case !admit && in:
		o.tree.Delete(o.at[n])
		delete(o.at, n)
	}
}

// move puts a node where it belongs by now.
func (o *order) move(n *node) {
	old, in := o.at[n]
	if !in {
		return
	}
	if now := o.placeOf(n); now != old {
		o.tree.Delete(old)
		o.at[n] = now
		o.tree.ReplaceOrInsert(now)
	}
}

// fewLooks is how many nodes are looked at, at most, for the first; after that all
// are ranked.
const fewLooks = 64

// first is the best of the nodes that pass all filters, nil if there is none among the
// first few or, unless it is the service's own order, all of these have tasks of it.
func (o *order) first(d *demand, now time.Time) (found *node) {
	looks := 0
	o.tree.Ascend(func(i btree.Item) bool {
		n := i.(place).node
		if (o.service != "" || n.byService[d.version.service] == 0) && n.penalty(d.version, now) == 0 && d.fits(n) {
			found = n
			return false
		}
		looks++
		return looks < fewLooks
	})
	return found
}

const (
	// maxOrders is how many sets of rules have an order of their own: each costs
	// something whenever a task comes or goes.
	maxOrders = 16
	// maxOwn is how many services have one.
	maxOwn = 4
	// rankedOften is after how many rankings a service gets one: by then that costs less.
	rankedOften = 3
)

// orders are those that are kept.
type orders struct {
	byRules map[string]*order
	// own are those of services, by version.
	own map[version]*order
	// ranked counts rankings of batches of one version.
	ranked map[version]int
}

func newOrders() *orders {
	return &orders{byRules: map[string]*order{}, own: map[version]*order{}, ranked: map[version]int{}}
}

func (o *orders) each(do func(*order)) {
	for _, one := range o.byRules {
		do(one)
	}
	for _, one := range o.own {
		do(one)
	}
}

// forget drops what is kept of a version.
func (o *orders) forget(v version) {
	delete(o.own, v)
	delete(o.ranked, v)
}

// orderOf is the order of the nodes that a demand's rules allow.
func (l *Loop) orderOf(d *demand) *order {
	key := fmt.Sprint(d.rules)
	o := l.orders.byRules[key]
	if o != nil {
		return o
	}
	if len(l.orders.byRules) >= maxOrders {
		clear(l.orders.byRules)
	}
	o = newOrder(d.rules, "", l.nodes)
	l.orders.byRules[key] = o
	return o
}

// ownOrder is the order of a demand's service, nil as long as it is worth none.
func (l *Loop) ownOrder(d *demand) *order {
	if o := l.orders.own[d.version]; o != nil {
		return o
	}
	if l.orders.ranked[d.version]++; l.orders.ranked[d.version] <= rankedOften {
		return nil
	}
	if len(l.orders.own) >= maxOwn {
		clear(l.orders.own)
		clear(l.orders.ranked)
	}
	o := newOrder(d.rules, d.version.service, l.nodes)
	l.orders.own[d.version] = o
	return o
}
