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
type order struct {
	rules placement.Rules
	tree  *btree.BTree // of place
	at    map[*node]place
}

// place is where a node stands.
type place struct {
	active int
	node   *node
}

// Less implements btree.Item.
func (p place) Less(than btree.Item) bool {
	q := than.(place)
	return cmp.Or(cmp.Compare(p.active, q.active), cmp.Compare(p.node.ID, q.node.ID)) < 0
}

// degree of the tree: a few cache lines for each of its nodes.
const degree = 16

func newOrder(r placement.Rules) *order {
	return &order{rules: r, tree: btree.New(degree), at: map[*node]place{}}
}

// look takes a node in or out, which changed or, if so, is gone.
func (o *order) look(n *node, gone bool) {
	_, in := o.at[n]
	admit := !gone && placement.Open(n.Node) && o.rules.Allow(n.Node)
	switch {
	case admit && !in:
		o.at[n] = place{n.active, n}
		o.tree.ReplaceOrInsert(o.at[n])
	case !admit && in:
		o.tree.Delete(o.at[n])
		delete(o.at, n)
	}
}

// move puts a node where it belongs by now.
func (o *order) move(n *node) {
	if old, in := o.at[n]; in && old.active != n.active {
		o.tree.Delete(old)
		o.at[n] = place{n.active, n}
		o.tree.ReplaceOrInsert(o.at[n])
	}
}

// maxOrders is how many sets of rules have an order of their own: each costs
// something whenever a task comes or goes.
const maxOrders = 16

// orderOf is the order of the nodes that a demand's rules allow.
func (l *Loop) orderOf(d *demand) *order {
	key := fmt.Sprint(d.rules)
	o := l.orders[key]
	if o != nil {
		return o
	}
	if len(l.orders) >= maxOrders {
		clear(l.orders)
	}
	o = newOrder(d.rules)
	for _, n := range l.nodes {
		o.look(n, false)
	}
	l.orders[key] = o
	return o
}

// fewLooks is how many nodes are looked at, at most, for one that has no task of
// the service; after that all are ranked.
const fewLooks = 64

// first is the first of the nodes that have no task of the service and pass all
// filters, nil if there is none among the first few.
func (o *order) first(d *demand, now time.Time) (found *node) {
	looks := 0
	o.tree.Ascend(func(i btree.Item) bool {
		n := i.(place).node
		if n.byService[d.version.service] == 0 && n.penalty(d.version, now) == 0 && d.fits(n) {
			found = n
			return false
		}
		looks++
		return looks < fewLooks
	})
	return found
}
