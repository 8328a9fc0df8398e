package ebpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// FullError says that a map of the load balancer has no room for another entry. What
// has its entry works on; the service that it was for keeps the backends that it had.
type FullError struct {
	Map string
	// Capacity is the most entries that the map can have.
	Capacity int
	Err      error
}

func (e *FullError) Error() string {
	return fmt.Sprintf("map %s of the load balancer is full: it holds all %d entries that it can, %s", e.Map, e.Capacity, remedy(e.Map))
}

// Unwrap gives the kernel's error.
func (e *FullError) Unwrap() error { return e.Err }

// remedy says what there is one entry of, and how to have fewer on a node.
func remedy(name string) string {
	const fewer = "keep this node off some networks by constraints, or have fewer services on them"
	switch name {
	case "services", "turns":
		return "one for each virtual address and published port; " + fewer
	case "slots":
		return "one for each task of a service, as often as it weighs (mesh.lb.weight, mesh.weight), or some thousand for mesh.lb=maglev; lower the weights, or " + fewer
	case "clients":
		return "one for each network of each container here; run fewer containers on this node"
	case "node_addrs":
		return "one for each address that published ports answer on; choose some by meshd --publish-on"
	}
	return "one for each task of a service; " + fewer
}

// put writes an entry. Where there is no room the error is a FullError.
func put(m *ebpf.Map, k, v any) error { return full(m, m.Put(k, v)) }

// full makes what the kernel says of a map without room a FullError.
func full(m *ebpf.Map, err error) error {
	if !errors.Is(err, unix.E2BIG) {
		return err
	}
	name := m.String()
	if info, ierr := m.Info(); ierr == nil {
		name = info.Name
	}
	return &FullError{Map: name, Capacity: int(m.MaxEntries()), Err: err}
}

// Fill says how full a map of the load balancer is: Entries of at most Capacity.
type Fill struct{ Entries, Capacity int }

// Fill says how full the maps are that grow with the swarm, by their names.
func (b *Balancer) Fill() (map[string]Fill, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held == nil {
		if err := b.rereadLocked(); err != nil {
			return nil, fmt.Errorf("read load balancer maps: %w", err)
		}
	}
	entries := map[*ebpf.Map]int{
		b.objects.Services: len(b.held.held), b.objects.NodeAddrs: len(b.held.state.NodeAddrs), b.objects.Slots: 0, b.objects.Backends: 0, b.objects.Clients: 0,
	}
	for _, e := range b.held.held {
		entries[b.objects.Slots] += int(e.id.Count)
		entries[b.objects.Backends] += len(e.Backends)
	}
	for _, c := range b.held.state.Clients {
		entries[b.objects.Clients] += len(c.Addrs)
	}
	out := map[string]Fill{}
	for m, n := range entries {
		info, err := m.Info()
		if err != nil {
			return nil, fmt.Errorf("read load balancer maps: %w", err)
		}
		out[info.Name] = Fill{Entries: n, Capacity: int(m.MaxEntries())}
	}
	return out, nil
}
