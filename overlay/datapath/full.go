package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// FullError says that a map of the data path has no room for another entry. What
// has its entry works on; what has none is not reached until there is room.
type FullError struct {
	Map string
	// Capacity is the most entries that the map can have.
	Capacity int
	Err      error
}

func (e *FullError) Error() string {
	return fmt.Sprintf("map %s of the overlay is full: it holds all %d entries that it can, %s", e.Map, e.Capacity, remedy(e.Map))
}

// Unwrap gives the kernel's error.
func (e *FullError) Unwrap() error { return e.Err }

// remedy says what there is one entry of, and how to have fewer on a node.
func remedy(table string) string {
	switch table {
	case "endpoints":
		return "one for each address of the tasks on the networks that this node has a part in; keep this node off some of them by constraints, or run fewer tasks on them"
	case "subnets":
		return "one for each subnet of the networks that this node has a part in; keep it off some of them by constraints"
	case "ifaces":
		return "one for each network of each container here; run fewer containers on this node"
	}
	return "one for each other node; the swarm has more nodes than that"
}

// full makes what the kernel says of a map without room (hash tables E2BIG, tries
// ENOSPC) a FullError.
func full(name string, m *ebpf.Map, err error) error {
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
		return &FullError{Map: name, Capacity: int(m.MaxEntries()), Err: err}
	}
	return err
}

// Capacities gives the most entries of the tables that can become full.
func (d *Datapath) Capacities() map[string]int {
	out := map[string]int{}
	for name, m := range map[string]*ebpf.Map{
		d.Endpoints.name: d.Endpoints.m, d.Subnets.name: d.Subnets.m, d.Ifaces.name: d.Ifaces.m, d.Peers.name: d.Peers.m,
	} {
		out[name] = int(m.MaxEntries())
	}
	return out
}
