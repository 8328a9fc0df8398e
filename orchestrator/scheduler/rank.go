package scheduler

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"
	"time"

	"github.com/meshd/meshd/orchestrator/placement"
)

// ranking are the nodes that qualify for the tasks of a version, best first. It is
// a tree whose floors are the preferences: each branch holds the nodes with one
// value of a label and counts the tasks of the service on them; nodes without the
// label are a branch of their own. Without preferences it is one leaf.
//
// It holds as long as nothing but its own picks changes the nodes.
type ranking struct {
	demand *demand
	root   *branch
}

// branch is a leaf if it has no branches.
type branch struct {
	tasks    int
	branches []*branch
	leaf     leaf
}

// rank makes a ranking of those of the nodes that qualify.
func rank(nodes []*node, d *demand, now time.Time) *ranking {
	var fit []*node
	for _, n := range nodes {
		if d.fits(n) {
			fit = append(fit, n)
		}
	}
	return &ranking{d, grow(fit, d, d.preferences, now)}
}

func grow(nodes []*node, d *demand, preferences []string, now time.Time) *branch {
	b := &branch{}
	for _, n := range nodes {
		b.tasks += n.byService[d.version.service]
	}
	if len(preferences) == 0 {
		b.leaf = make(leaf, 0, len(nodes))
		for _, n := range nodes {
			b.leaf = append(b.leaf, ranked{n, n.penalty(d.version, now), n.byService[d.version.service]})
		}
		heap.Init(&b.leaf)
		return b
	}
	for _, part := range split(nodes, preferences[0]) {
		b.branches = append(b.branches, grow(part, d, preferences[1:], now))
	}
	return b
}

// split brings those of the nodes together that have the same value of a label, in the
// order of the values.
func split(nodes []*node, label string) [][]*node {
	byValue := map[string][]*node{}
	for _, n := range nodes {
		value, _ := placement.Value(label, n.Node)
		byValue[value] = append(byValue[value], n)
	}
	out := make([][]*node, 0, len(byValue))
	for _, value := range slices.Sorted(maps.Keys(byValue)) {
		out = append(out, byValue[value])
	}
	return out
}

// best is the node for the next task, nil if none is left. enter must enter the
// task there before it returns.
func (r *ranking) best(enter func(*node)) *node { return r.root.best(r.demand, enter) }

func (b *branch) best(d *demand, enter func(*node)) *node {
	if b.branches == nil {
		n := b.leaf.best(d, enter)
		if n != nil {
			b.tasks++
		}
		return n
	}
	for len(b.branches) > 0 {
		i := 0
		for j, c := range b.branches {
			if c.tasks < b.branches[i].tasks {
				i = j
			}
		}
		if n := b.branches[i].best(d, enter); n != nil {
			b.tasks++
			return n
		}
		b.branches = slices.Delete(b.branches, i, i+1) // its nodes are full
	}
	b.branches = []*branch{} // a leaf it is not
	return nil
}

// ranked is a node with what it is judged by.
type ranked struct {
	*node
	failed, tasks int
}

// leaf is a heap of nodes: first the one where the task did not keep failing, with
// the fewest tasks of the service, with the fewest tasks.
type leaf []ranked

// Len implements heap.Interface.
func (l leaf) Len() int { return len(l) }

// Swap implements heap.Interface.
func (l leaf) Swap(i, j int) { l[i], l[j] = l[j], l[i] }

// Less implements heap.Interface.
func (l leaf) Less(i, j int) bool {
	a, b := l[i], l[j]
	return cmp.Or(cmp.Compare(a.failed, b.failed), cmp.Compare(a.tasks, b.tasks),
		cmp.Compare(a.active, b.active), cmp.Compare(a.ID, b.ID)) < 0
}

// Push implements heap.Interface; no node is added later.
func (l *leaf) Push(x any) { *l = append(*l, x.(ranked)) }

// Pop implements heap.Interface.
func (l *leaf) Pop() any {
	last := (*l)[len(*l)-1]
	*l = (*l)[:len(*l)-1]
	return last
}

func (l *leaf) best(d *demand, enter func(*node)) *node {
	if len(*l) == 0 {
		return nil
	}
	n := (*l)[0].node
	enter(n)
	if !d.fits(n) {
		heap.Pop(l)
		return n
	}
	(*l)[0].tasks++
	heap.Fix(l, 0)
	return n
}
