package overlay

// Fill says how full a map of the data path is: Entries of at most Capacity.
type Fill struct{ Entries, Capacity int }

// measured is an edge whose maps have bounds.
type measured interface {
	// capacities gives them by the maps' names.
	capacities() map[string]int
}

// Fill says how full the maps are that grow with the swarm, by their names.
func (o *Overlay) Fill() map[string]Fill {
	o.mu.Lock()
	defer o.mu.Unlock()
	k, ok := o.kernel.(measured)
	if !ok {
		return nil
	}
	out := map[string]Fill{}
	for name, capacity := range k.capacities() {
		out[name] = Fill{Capacity: capacity}
	}
	for object := range o.held {
		if f, ok := out[tableOf(object)]; ok {
			f.Entries++
			out[tableOf(object)] = f
		}
	}
	return out
}

// tableOf names the map that an object is an entry of; empty: of none that can be full.
func tableOf(o object) string {
	switch o.(type) {
	case endpointObject:
		return "endpoints"
	case subnetObject:
		return "subnets"
	case ifaceObject:
		return "ifaces"
	case peerObject:
		return "peers"
	default:
		return ""
	}
}
