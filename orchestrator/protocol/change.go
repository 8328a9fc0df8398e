package protocol

import (
	"cmp"
	"slices"
)

// NetworkChange brings what a node knows of a network from one revision to
// another. A snapshot is a change from nothing.
type NetworkChange struct {
	// Network is as it is at the new revision, but Services and Endpoints are only
	// those that are new or differ.
	Network
	// From is the revision that this is a change to; zero: nothing.
	From uint64 `json:",omitempty"`
	// ServicesGone and EndpointsGone (task IDs) are not on the network any more.
	ServicesGone  []string `json:",omitempty"`
	EndpointsGone []string `json:",omitempty"`
}

// On is the network after the change. It is false when old is not what the change
// starts from: something was missed. Slices of old are not modified.
func (c NetworkChange) On(old Network) (Network, bool) {
	out, from := c.Network, old
	switch {
	case c.From == 0:
		from = Network{}
	case old.ID != c.ID || old.Revision != c.From:
		return old, false
	}
	out.Services = merge(from.Services, c.Services, c.ServicesGone, func(s Service) string { return s.ID })
	out.Endpoints = merge(from.Endpoints, c.Endpoints, c.EndpointsGone, func(e Endpoint) string { return e.TaskID })
	return out, true
}

// merge replaces, adds and removes elements of a list that is ordered by key.
func merge[T any](old, set []T, gone []string, key func(T) string) []T {
	if len(set)+len(gone) == 0 {
		return old
	}
	replaced := make(map[string]bool, len(set)+len(gone))
	for _, id := range gone {
		replaced[id] = true
	}
	for _, x := range set {
		replaced[key(x)] = true
	}
	byKey := func(a, b T) int { return cmp.Compare(key(a), key(b)) }
	if !slices.IsSortedFunc(set, byKey) {
		set = slices.SortedFunc(slices.Values(set), byKey)
	}
	out := make([]T, 0, len(old)+len(set))
	for _, x := range old {
		k := key(x)
		for len(set) > 0 && key(set[0]) < k {
			out, set = append(out, set[0]), set[1:]
		}
		if !replaced[k] {
			out = append(out, x)
		}
	}
	return append(out, set...)
}
