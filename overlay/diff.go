package overlay

import (
	"slices"

	"github.com/meshd/meshd/overlay/datapath"
)

// op is one thing to do: put the object with its value, or remove it.
type op struct {
	object object
	value  any
	remove bool
}

// diff gives what is to be done so that the objects of ranks from to last are
// those wanted: first all additions and changes, in rank order, then the
// removals in reverse order.
func diff(want, held objects, from, last rank) []op {
	var puts, removals []op
	for o, v := range want {
		if r := o.rank(); r < from || r > last {
			continue
		}
		if have, ok := held[o]; !ok || have != v {
			puts = append(puts, op{object: o, value: v})
		}
	}
	for o, v := range held {
		if r := o.rank(); r < from || r > last {
			continue
		}
		if _, ok := want[o]; !ok && !stays(o) {
			removals = append(removals, op{object: o, value: v, remove: true})
		}
	}
	slices.SortStableFunc(puts, func(a, b op) int { return int(a.object.rank() - b.object.rank()) })
	slices.SortStableFunc(removals, func(a, b op) int { return int(b.object.rank() - a.object.rank()) })
	return append(puts, removals...)
}

// stays says what is never taken away: a switch, since others may count on it by
// now, and the programs' own places, which nobody comes to then.
func stays(o object) bool {
	switch o.(type) {
	case sysctlObject, slotObject:
		return true
	}
	return false
}

// splitRemovals parts what is to be put from what is to be removed.
func splitRemovals(ops []op) (puts, removals []op) {
	i := slices.IndexFunc(ops, func(o op) bool { return o.remove })
	if i < 0 {
		return ops, nil
	}
	return ops[:i], ops[i:]
}

// withoutState keeps what may be done before the desired state is known, after
// a restart: additions that keep no more than what is there, and removals that
// follow from a container's interface being gone. The rest is left as the
// process before left it.
func withoutState(ops []op, held objects) []op {
	return slices.DeleteFunc(ops, func(o op) bool {
		if o.remove {
			return !followsFromPorts(o.object, o.value)
		}
		switch o.object.(type) {
		case routeObject, hopObject, edgeObject, vxlanObject: // without the state's part of their values it would be a step back
			return held[o.object] != nil
		case mtuObject, tunnelMTUObject: // they follow from the peers
			return true
		default:
			return false
		}
	})
}

// NetworkError is an error that concerns one network only: the others are as they
// should be.
type NetworkError struct {
	VNI uint32
	Err error
}

func (e *NetworkError) Error() string { return e.Err.Error() }

// Unwrap gives the error.
func (e *NetworkError) Unwrap() error { return e.Err }

// blame says which network an operation's failure concerns, if it is one alone.
func (o op) blame(err error) error {
	switch object := o.object.(type) {
	case subnetObject:
		return &NetworkError{o.value.(uint32), err}
	case endpointObject:
		return &NetworkError{object.key.VNI, err}
	case ifaceObject:
		return &NetworkError{o.value.(datapath.Iface).VNI, err}
	}
	return err
}
