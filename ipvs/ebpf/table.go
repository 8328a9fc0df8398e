package ebpf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/meshd/meshd/ipvs"
)

// entry is a service as the maps hold it.
type entry struct {
	ipvs.Service // without a name
	id           service
	// broken: the slots do not fit the backends, as after a process that died half-way.
	broken bool
	// unwatched: the failures of some backends are not watched as they should be.
	unwatched bool
}

// table is what the maps hold. One Set at a time changes it, and them.
type table struct {
	maps   *balanceMaps
	netns  uint64
	flags  uint32
	cpus   int        // that counters are kept by
	state  ipvs.State // without names
	held   map[ipvs.Key]entry
	nextID uint32
	bits   []uint64
	// stray entries belong to no service: left by a process that died half-way.
	strayBackends []backendKey
	strayCounters []backendKey
	straySlots    []slotKey
	node          node
}

// read makes the table of what is in the maps now, for the network namespace with
// the given cookie; flags are what the node's entry is to have.
func read(maps *balanceMaps, netns uint64, flags uint32) (*table, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	t := &table{maps: maps, netns: netns, flags: flags, cpus: cpus, held: map[ipvs.Key]entry{}, nextID: 1}
	byID := map[uint32]ipvs.Key{}
	for k, v := range all[serviceKey, service](maps.Services, &err) {
		byID[v.ID] = k.key()
		t.held[k.key()] = entry{Service: v.read(k.key()), id: v}
		t.nextID = max(t.nextID, v.ID+1)
	}
	t.readBackends(byID, &err)
	t.readHealth(&err)
	t.readCounters(&err)
	t.readSlots(byID, &err)
	for k, v := range all[addr, uint32](maps.NodeAddrs, &err) {
		if v == meshAddr {
			t.state.MeshAddr = k.netip()
			continue
		}
		t.state.NodeAddrs = append(t.state.NodeAddrs, k.netip())
		if v == tunnelAddr {
			t.state.TunnelAddr = k.netip()
		}
	}
	t.readClients(&err)
	if err == nil {
		err = t.readNode()
	}
	for _, e := range t.held {
		t.state.Services = append(t.state.Services, e.Service)
	}
	return t, err
}

// readClients makes one client of each group of addresses that tell the same. An
// address that is not in its own list is left alone in one, as no client wanted is.
func (t *table) readClients(err *error) {
	for k, v := range all[clientKey, clientEntry](t.maps.Clients, err) {
		own := ipvs.ClientAddr{VNI: k.VNI, Addr: k.Addr.netip()}
		switch c := v.client(); {
		case !slices.Contains(c.Addrs, own) && len(c.Addrs) < clientNetworks:
			t.state.Clients = append(t.state.Clients, ipvs.Client{Addrs: []ipvs.ClientAddr{own}})
		case c.Addrs[0] == own:
			t.state.Clients = append(t.state.Clients, c)
		}
	}
}

func (t *table) readNode() error {
	if err := t.maps.Node.Lookup(uint32(0), &t.node); err != nil {
		return err
	}
	t.state.MeshVNI = t.node.MeshVNI
	t.bits = make([]uint64, 2*portWords)
	for i := range t.bits {
		if err := t.maps.Published.Lookup(uint32(i), &t.bits[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) readBackends(byID map[uint32]ipvs.Key, err *error) {
	for k, state := range all[backendKey, uint32](t.maps.Backends, err) {
		t.nextID = max(t.nextID, k.Service+1)
		key, ok := byID[k.Service]
		if !ok {
			t.strayBackends = append(t.strayBackends, k)
			continue
		}
		e := t.held[key]
		e.Backends = append(e.Backends, k.backend(state))
		t.held[key] = e
	}
	for key, e := range t.held {
		slices.SortFunc(e.Backends, func(a, b ipvs.Backend) int {
			if c := a.Addr.Compare(b.Addr); c != 0 {
				return c
			}
			return int(a.Port) - int(b.Port)
		})
		t.held[key] = e
	}
}

// readHealth finds services with backends whose failures are not watched as they should be.
func (t *table) readHealth(err *error) {
	found := map[backendKey]health{}
	for k, v := range all[backendKey, health](t.maps.Health, err) {
		found[k] = v
	}
	for key, e := range t.held {
		for _, b := range e.Backends {
			h, ok := found[backendKeyOf(e.id.ID, b)]
			if !ok || h.Limit != uint32(e.id.EjectAfter) || h.Window != e.id.EjectWithin {
				e.unwatched = true
			}
		}
		t.held[key] = e
	}
}

// readCounters finds those of backends that are gone: a packet may have picked one at
// the moment that it went.
func (t *table) readCounters(err *error) {
	there := map[backendKey]bool{}
	for _, e := range t.held {
		there[backendKey{Service: e.id.ID}] = true
		for _, b := range e.Backends {
			there[backendKeyOf(e.id.ID, b)] = true
		}
	}
	strays := map[backendKey]bool{}
	for k := range allOn[backendKey, counters](t.maps.Counters, t.cpus, err) {
		if !there[k] && !strays[k] {
			strays[k] = true
			t.strayCounters = append(t.strayCounters, k)
		}
	}
}

func (t *table) readSlots(byID map[uint32]ipvs.Key, err *error) {
	found := map[slotKey]slot{}
	for k, v := range all[slotKey, slot](t.maps.Slots, err) {
		if e, ok := t.held[byID[k.Service]]; !ok || e.id.Generation != k.Generation || k.Index >= e.id.Count {
			t.straySlots = append(t.straySlots, k)
			continue
		}
		found[k] = v
	}
	for key, e := range t.held {
		want := slotsOf(e.Service)
		e.broken = e.unwatched || len(want) != int(e.id.Count)
		for i, s := range want {
			if found[slotKey{e.id.ID, e.id.Generation, uint32(i)}] != s {
				e.broken = true
			}
		}
		t.held[key] = e
	}
}

// apply makes the maps equal to a normalized state. What fails keeps nothing else
// from being done; the maps have to be read again then.
func (t *table) apply(want ipvs.State) error {
	plan := ipvs.Diff(t.state, want)
	var errs []error
	note := func(what any, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", what, err))
		}
	}
	noteOn := func(vni uint32, what any, err error) {
		if err != nil {
			errs = append(errs, &ipvs.NetworkError{VNI: vni, Err: fmt.Errorf("%v: %w", what, err)})
		}
	}
	note("addresses of the node", t.putNodeAddrs(plan, want))
	for _, s := range t.alsoBroken(plan.Put, want) {
		noteOn(s.VNI, s.Key, t.put(s))
	}
	note("node", t.putNode(want))
	for _, c := range plan.PutClients {
		for _, a := range c.Addrs {
			noteOn(a.VNI, a.Addr, put(t.maps.Clients, clientKeyOf(a), clientOf(c)))
		}
	}
	for _, a := range plan.RemoveClients {
		noteOn(a.VNI, a.Addr, gone(t.maps.Clients.Delete(clientKeyOf(a))))
	}
	note("published ports", t.putBits(publishedBits(want.Services)))
	for _, k := range plan.Remove {
		noteOn(k.VNI, k, t.remove(k))
	}
	if a := t.state.MeshAddr; a.IsValid() && a != want.MeshAddr && !slices.Contains(want.NodeAddrs, a) {
		plan.RemoveAddrs = append(plan.RemoveAddrs, a)
	}
	for _, a := range plan.RemoveAddrs {
		note(a, gone(t.maps.NodeAddrs.Delete(addrOf(a))))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	t.state = want
	return t.sweep()
}

// putNodeAddrs writes addresses that are new, or are what others know the node by, or were.
func (t *table) putNodeAddrs(plan ipvs.Plan, want ipvs.State) error {
	var errs []error
	for _, a := range want.NodeAddrs {
		was, is := nodeAddr, nodeAddr
		if a == t.state.TunnelAddr {
			was = tunnelAddr
		}
		if a == want.TunnelAddr {
			is = tunnelAddr
		}
		if was == is && !slices.Contains(plan.AddAddrs, a) {
			continue
		}
		if err := put(t.maps.NodeAddrs, addrOf(a), is); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
		}
	}
	if want.MeshAddr.IsValid() && want.MeshAddr != t.state.MeshAddr {
		errs = append(errs, put(t.maps.NodeAddrs, addrOf(want.MeshAddr), meshAddr))
	}
	return errors.Join(errs...)
}

// alsoBroken adds the services that look right but are not.
func (t *table) alsoBroken(put []ipvs.Service, want ipvs.State) []ipvs.Service {
	planned := map[ipvs.Key]bool{}
	for _, s := range put {
		planned[s.Key] = true
	}
	for _, s := range want.Services {
		if t.held[s.Key].broken && !planned[s.Key] {
			put = append(put, s)
		}
	}
	return put
}

// put writes a service so that a packet finds either its old list of backends or
// the new one, whole.
func (t *table) put(s ipvs.Service) error {
	old, known := t.held[s.Key]
	now := entry{Service: s, id: serviceOf(s)}
	now.Name = ""
	now.id.ID, now.id.Generation = old.id.ID, old.id.Generation+1
	if !known {
		now.id.ID = t.nextID
		t.nextID++
	}
	if err := ifNew(t.maps.Turns, now.id.ID, uint32(0)); err != nil {
		return err
	}
	for _, b := range s.Backends {
		if err := t.putBackend(now, b, returned(old, b)); err != nil {
			return fmt.Errorf("backend %s: %w", b.Addr, err)
		}
	}
	slots := slotsOf(s)
	now.id.Count = uint32(len(slots))
	for i, v := range slots {
		if err := put(t.maps.Slots, slotKey{now.id.ID, now.id.Generation, uint32(i)}, v); err != nil {
			return fmt.Errorf("slot %d: %w", i, err)
		}
	}
	if err := put(t.maps.Services, keyOf(s.Key), now.id); err != nil {
		return err
	}
	t.held[s.Key] = now
	return t.drop(old, s.Backends)
}

// returned says that a backend was ejected, and is not any more.
func returned(old entry, b ipvs.Backend) bool {
	return !b.Ejected && slices.ContainsFunc(old.Backends, func(o ipvs.Backend) bool {
		return o.Addr == b.Addr && o.Port == b.Port && o.Ejected
	})
}

// ifNew puts a value where there is none.
func ifNew(m *ebpf.Map, k, v any) error {
	if err := m.Update(k, v, ebpf.UpdateNoExist); !errors.Is(err, ebpf.ErrKeyExist) {
		return full(m, err)
	}
	return nil
}

// putBackend writes who may keep connections. One that returns from having been
// ejected is on trial: its next failure ejects it again, unless a success comes before.
func (t *table) putBackend(of entry, b ipvs.Backend, onTrial bool) error {
	k := backendKeyOf(of.id.ID, b)
	if err := ifNew(t.maps.Loads, k, int32(0)); err != nil {
		return err
	}
	want := health{Limit: uint32(of.id.EjectAfter), Window: of.id.EjectWithin}
	if onTrial && want.Limit > 0 {
		now, err := secondsSinceBoot()
		if err != nil {
			return err
		}
		for i := range want.Streaks {
			want.Streaks[i] = streak{want.Limit - 1, uint32(now)}
		}
	}
	var have health
	if err := t.maps.Health.Lookup(k, &have); err != nil || onTrial || have.Limit != want.Limit || have.Window != want.Window {
		if err := put(t.maps.Health, k, want); err != nil {
			return err
		}
	}
	return put(t.maps.Backends, k, stateOf(b))
}

// drop deletes what a service had and does not have any more.
func (t *table) drop(old entry, keep []ipvs.Backend) error {
	for i := range old.id.Count {
		if err := gone(t.maps.Slots.Delete(slotKey{old.id.ID, old.id.Generation, i})); err != nil {
			return fmt.Errorf("old slot %d: %w", i, err)
		}
	}
	for _, b := range old.Backends {
		same := func(k ipvs.Backend) bool { return k.Addr == b.Addr && k.Port == b.Port }
		if slices.ContainsFunc(keep, same) {
			continue
		}
		if err := t.dropBackend(backendKeyOf(old.id.ID, b)); err != nil {
			return fmt.Errorf("old backend %s: %w", b.Addr, err)
		}
	}
	return nil
}

// dropBackend forgets a backend; what was counted of it stays with its service.
func (t *table) dropBackend(k backendKey) error {
	if err := gone(t.maps.Backends.Delete(k)); err != nil {
		return err
	}
	return errors.Join(t.dropCounters(k), gone(t.maps.Loads.Delete(k)), gone(t.maps.Health.Delete(k)))
}

func (t *table) dropCounters(k backendKey) error {
	total, was := make([]counters, t.cpus), make([]counters, t.cpus)
	if t.maps.Counters.Lookup(k, &was) != nil {
		return nil // it never got a connection
	}
	service := backendKey{Service: k.Service}
	_ = t.maps.Counters.Lookup(service, &total) // none yet: zero
	for cpu := range total {
		total[cpu].add(was[cpu])
	}
	return errors.Join(t.maps.Counters.Put(service, total), gone(t.maps.Counters.Delete(k)))
}

func (t *table) remove(k ipvs.Key) error {
	e := t.held[k]
	if err := gone(t.maps.Services.Delete(keyOf(k))); err != nil {
		return err
	}
	delete(t.held, k)
	errs := []error{t.drop(e, nil), gone(t.maps.Counters.Delete(backendKey{Service: e.id.ID})), gone(t.maps.Turns.Delete(e.id.ID))}
	for reason := range dropReasons() {
		errs = append(errs, gone(t.maps.Refusals.Delete(refusalKey{e.id.ID, uint32(reason)})))
	}
	return errors.Join(errs...)
}

func (t *table) putNode(want ipvs.State) error {
	n := node{Netns: t.netns, MeshVNI: want.MeshVNI, Flags: t.flags, Limit: uint32(max(want.TunnelLimit, 0))}
	if a := want.Loopback4(); a.IsValid() {
		n.Addr4 = a.As4()
	}
	if a := want.Loopback6(); a.IsValid() {
		n.Addr6 = addrOf(a)
	}
	if n == t.node {
		return nil
	}
	if err := t.maps.Node.Put(uint32(0), n); err != nil {
		return err
	}
	t.node = n
	return nil
}

func (t *table) putBits(bits []uint64) error {
	for i, word := range bits {
		if word == t.bits[i] {
			continue
		}
		if err := t.maps.Published.Put(uint32(i), word); err != nil {
			return err
		}
		t.bits[i] = word
	}
	return nil
}

// sweep deletes strays, after all that could need them stands.
func (t *table) sweep() error {
	for _, k := range t.straySlots {
		e, ok := t.byID(k.Service)
		if ok && e.id.Generation == k.Generation && k.Index < e.id.Count {
			continue // its number has been given out again meanwhile
		}
		if err := gone(t.maps.Slots.Delete(k)); err != nil {
			return fmt.Errorf("stray slot: %w", err)
		}
	}
	for _, k := range t.strayBackends {
		if err := t.dropBackend(k); err != nil {
			return fmt.Errorf("stray backend: %w", err)
		}
	}
	for _, k := range t.strayCounters {
		if err := t.sweepCounters(k); err != nil {
			return fmt.Errorf("stray counters: %w", err)
		}
	}
	t.straySlots, t.strayBackends, t.strayCounters = nil, nil, nil
	return nil
}

func (t *table) sweepCounters(k backendKey) error {
	e, ok := t.byID(k.Service)
	switch {
	case !ok:
		return gone(t.maps.Counters.Delete(k))
	case k.Addr == (addr{}), slices.ContainsFunc(e.Backends, func(b ipvs.Backend) bool { return backendKeyOf(k.Service, b) == k }):
		return nil // it has come back meanwhile
	}
	return t.dropCounters(k)
}

func (t *table) byID(id uint32) (entry, bool) {
	for _, e := range t.held {
		if e.id.ID == id {
			return e, true
		}
	}
	return entry{}, false
}

// gone takes "is not there" for success.
func gone(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}
