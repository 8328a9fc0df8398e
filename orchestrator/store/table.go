package store

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
)

// table holds the objects of one kind and its secondary indexes. An index maps
// a value (a service's ID, say) to the keys of the objects that have it; its
// function returns "" for objects that do not belong in it.
type table[T Object] struct {
	rows    map[string]T
	names   map[string]string // name -> key; nil for kinds without unique names
	name    func(T) string
	indexes []*index[T]
	// list are the rows in order, made by the first view that asks; nil: not yet.
	list atomic.Pointer[[]T]
}

type index[T Object] struct {
	of   func(T) []string
	rows map[string]map[string]T
}

func newTable[T Object](name func(T) string, indexes ...func(T) []string) *table[T] {
	t := &table[T]{rows: map[string]T{}, name: name}
	if name != nil {
		t.names = map[string]string{}
	}
	for _, of := range indexes {
		t.indexes = append(t.indexes, &index[T]{of: of, rows: map[string]map[string]T{}})
	}
	return t
}

func (t *table[T]) put(o T) {
	key := o.Key()
	t.list.Store(nil)
	if old, ok := t.rows[key]; ok {
		t.unindex(old)
	}
	t.rows[key] = o
	if t.names != nil {
		t.names[t.name(o)] = key
	}
	for _, ix := range t.indexes {
		for _, v := range ix.of(o) {
			set := ix.rows[v]
			if set == nil {
				set = map[string]T{}
				ix.rows[v] = set
			}
			set[key] = o
		}
	}
}

func (t *table[T]) remove(key string) {
	if old, ok := t.rows[key]; ok {
		t.list.Store(nil)
		t.unindex(old)
		delete(t.rows, key)
	}
}

func (t *table[T]) unindex(o T) {
	key := o.Key()
	if t.names != nil {
		delete(t.names, t.name(o))
	}
	for _, ix := range t.indexes {
		for _, v := range ix.of(o) {
			delete(ix.rows[v], key)
			if len(ix.rows[v]) == 0 {
				delete(ix.rows, v)
			}
		}
	}
}

func (t *table[T]) get(key string) (o T) { return t.rows[key] }

func (t *table[T]) byName(name string) (o T) { return t.rows[t.names[name]] }

// all is a slice of the caller's own.
func (t *table[T]) all() []T {
	list := t.list.Load()
	if list == nil {
		all := sorted(t.rows)
		list = &all
		t.list.Store(list)
	}
	return slices.Clone(*list)
}

func (t *table[T]) by(ix int, value string) []T { return sorted(t.indexes[ix].rows[value]) }

// sorted lists the objects by key, so that every replica and every run sees
// the same order.
func sorted[T Object](rows map[string]T) []T {
	return slices.SortedFunc(maps.Values(rows), func(a, b T) int { return cmp.Compare(a.Key(), b.Key()) })
}
