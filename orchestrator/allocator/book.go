package allocator

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/overlay/ipam"
)

const (
	// firstVNI is that of the mesh network; the others come behind it.
	firstVNI = 4096
	lastVNI  = 1<<24 - 1 // RFC 7348
	// The ports that services get which do not ask for a certain one, as in Swarm.
	firstPort = 30000
	lastPort  = 32767
)

// claim is an address that somebody holds.
type claim struct {
	network string
	addr    netip.Addr
}

// port is a published port of the routing mesh.
type port struct {
	protocol network.IPProtocol
	number   uint32
}

// ranges are the subnets of one network.
type ranges struct {
	id      string
	name    string
	mesh    bool
	vni     uint32
	subnets []*ipam.Subnet
	// reserved are those of its subnets that overlap with nobody else's.
	reserved []netip.Prefix
}

// book knows what is in use, and by whom: tasks and services by their ID.
type book struct {
	pools    *ipam.Pools
	networks map[string]*ranges
	vnis     map[uint32]bool
	claims   map[string][]claim
	// owners is claims seen from the other side.
	owners map[claim]string
	// slots and stable: see slots.go.
	slots    map[place]holder
	stable   map[string]bool
	ports    map[port]string
	portsOf  map[string][]port
	nextPort uint32
	// hosted are the ports from the range that tasks were given on their nodes, and
	// how many have each; hostedBy are those of one task.
	hosted   map[port]int
	hostedBy map[string][]port
	// freed says that something came free since it was last cleared.
	freed bool
	// undo takes back what was chosen since begin.
	undo []func()
}

func newBook(c *store.Cluster) *book {
	return &book{
		pools:    newPools(c),
		networks: map[string]*ranges{},
		vnis:     map[uint32]bool{},
		claims:   map[string][]claim{},
		owners:   map[claim]string{},
		slots:    map[place]holder{},
		stable:   map[string]bool{},
		ports:    map[port]string{},
		portsOf:  map[string][]port{},
		hosted:   map[port]int{},
		hostedBy: map[string][]port{},
		nextPort: firstPort,
	}
}

// newPools uses the cluster's pools as they are, or else the default ones. IPv6
// networks without pool get theirs from the unique local range that follows from
// the cluster's ID.
func newPools(c *store.Cluster) *ipam.Pools {
	if c == nil {
		return ipam.NewPools(ipam.DefaultPools())
	}
	var pools []ipam.Pool
	has6 := false
	for _, p := range c.DefaultAddrPool {
		if p.Addr().Is6() {
			has6 = true
			pools = append(pools, ipam.Pool{Prefix: p, Size: ipam.IPv6Size})
		} else {
			pools = append(pools, ipam.Pool{Prefix: p, Size: int(c.SubnetSize)})
		}
	}
	if len(pools) == 0 {
		pools = ipam.DefaultPools()
	}
	if !has6 {
		pools = append(pools, ipam.Pool{Prefix: ipam.UniqueLocal(c.ID), Size: ipam.IPv6Size})
	}
	return ipam.NewPools(pools)
}

func (b *book) begin() { b.undo = nil }

func (b *book) rollback() { b.rewind(0) }

// rewind takes back what was chosen since there were so many steps.
func (b *book) rewind(steps int) {
	for i := len(b.undo) - 1; i >= steps; i-- {
		b.undo[i]()
	}
	b.undo = b.undo[:min(steps, len(b.undo))]
}

// addNetwork enters an allocated network.
func (b *book) addNetwork(n *store.Network) error {
	if b.networks[n.ID] != nil || n.IPAMOptions == nil {
		return nil
	}
	r := &ranges{id: n.ID, name: n.Spec.Name, mesh: n.Spec.Ingress, vni: n.VNI}
	var errs []error
	for _, c := range n.IPAMOptions.Configs {
		s, err := newSubnet(c, n.Aux)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r.subnets = append(r.subnets, s)
		if err := b.pools.Reserve(s.Prefix()); err != nil {
			errs = append(errs, err)
			continue
		}
		r.reserved = append(r.reserved, s.Prefix())
	}
	b.networks[n.ID] = r
	b.vnis[n.VNI] = true
	b.freed = true // whoever waits for this network
	return errors.Join(errs...)
}

// newSubnet is a subnet of a network in which others have the addresses aux.
func newSubnet(c swarm.IPAMConfig, aux map[string]netip.Addr) (*ipam.Subnet, error) {
	conf := ipam.SubnetConfig{Prefix: c.Subnet, Gateway: c.Gateway, Range: c.Range}
	for _, a := range aux {
		if c.Subnet.Contains(a) {
			conf.Reserved = append(conf.Reserved, a)
		}
	}
	return ipam.NewSubnet(conf)
}

func (b *book) dropNetwork(id string) {
	r := b.networks[id]
	if r == nil {
		return
	}
	for _, p := range r.reserved {
		b.pools.Release(p)
	}
	delete(b.vnis, r.vni)
	delete(b.networks, id)
	b.freed = true
}

// hold makes the owner's addresses exactly these.
func (b *book) hold(owner string, want []claim) error {
	var errs []error
	for _, c := range b.claims[owner] {
		if !slices.Contains(want, c) {
			b.release(c)
			b.freed = true
		}
	}
	var held []claim
	for _, c := range want {
		if !slices.Contains(b.claims[owner], c) {
			if err := b.reserve(owner, c); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", owner, err))
				continue
			}
		}
		held = append(held, c)
	}
	if b.claims[owner] = held; held == nil {
		delete(b.claims, owner)
	}
	return errors.Join(errs...)
}

// restore gives the owner back what it held before an allocation that failed;
// nothing came free by that.
func (b *book) restore(owner string, before []claim) {
	freed := b.freed
	_ = b.hold(owner, before) // reserves nothing: what was held before is held still
	b.freed = freed
}

// resume has everything go on behind what was given out last, as far as the
// objects show that: a new leader would otherwise begin with what came free last.
func (b *book) resume(v *store.View) {
	byVNI := slices.SortedFunc(slices.Values(v.Networks()), func(x, y *store.Network) int { return cmp.Compare(x.VNI, y.VNI) })
	for _, n := range byVNI {
		if r := b.networks[n.ID]; r != nil {
			for _, s := range r.subnets {
				b.pools.Resume(s.Prefix())
			}
		}
	}
	type owner struct {
		made time.Time
		id   string
		addr netip.Addr
	}
	newest := map[*ipam.Subnet]owner{}
	see := func(made time.Time, id string, claims []claim) {
		for _, c := range claims {
			s := b.subnet(c)
			if s == nil {
				continue
			}
			last := newest[s]
			if cmp.Or(made.Compare(last.made), cmp.Compare(id, last.id)) > 0 {
				newest[s] = owner{made, id, c.addr}
			}
		}
	}
	for _, s := range v.Services() {
		claims, _ := claimsOfService(s)
		see(s.CreatedAt, s.ID, claims)
	}
	for _, t := range v.Tasks() { // those that have ended, too
		see(t.CreatedAt, t.ID, claimsOfTask(t))
	}
	for s, last := range newest {
		s.Resume(last.addr)
	}
}

func (b *book) reserve(owner string, c claim) error {
	// Of a network that is gone there is nothing to collide with.
	if s := b.subnet(c); s != nil {
		if err := s.Reserve(c.addr); err != nil {
			return err
		}
	}
	b.owners[c] = owner
	return nil
}

func (b *book) release(c claim) {
	delete(b.owners, c)
	if s := b.subnet(c); s != nil {
		s.Release(c.addr)
	}
}

func (b *book) subnet(c claim) *ipam.Subnet {
	r := b.networks[c.network]
	if r == nil {
		return nil
	}
	for _, s := range r.subnets {
		if s.Prefix().Contains(c.addr) {
			return s
		}
	}
	return nil
}

// takeFree gives the owner a free address of a family; ok is false if the network
// has no such subnet.
func (b *book) takeFree(owner, networkID string, is6 bool) (p netip.Prefix, ok bool, err error) {
	r := b.networks[networkID]
	if r == nil {
		return p, false, fmt.Errorf("network %s has no subnet yet", networkID)
	}
	if p, ok, err = r.allocate(is6); ok {
		b.enter(owner, claim{networkID, p.Addr()})
	}
	return p, ok, err
}

// takeGiven gives the owner a certain address.
func (b *book) takeGiven(v state, owner string, c claim) (netip.Prefix, error) {
	s := b.subnet(c)
	if s == nil {
		return netip.Prefix{}, fmt.Errorf("network %s has no subnet of %s", c.network, c.addr)
	}
	p := netip.PrefixFrom(c.addr, s.Prefix().Bits())
	switch other := b.owners[c]; {
	case other == owner:
		return p, nil
	case other != "":
		return p, fmt.Errorf("%s of network %s is in use by %s", c.addr, b.networks[c.network].name, nameOf(v, other))
	}
	if err := s.Reserve(c.addr); err != nil {
		return p, err
	}
	b.enter(owner, c)
	return p, nil
}

// enter notes a chosen address.
func (b *book) enter(owner string, c claim) {
	before := slices.Clone(b.claims[owner])
	b.undo = append(b.undo, func() { b.restore(owner, before) })
	b.claims[owner] = append(slices.Clone(before), c)
	b.owners[c] = owner
}

// allocate takes an address from the first subnet of the family that has one; ok
// is false if the network has no subnet of that family.
func (r *ranges) allocate(is6 bool) (p netip.Prefix, ok bool, err error) {
	exists := false
	for _, s := range r.subnets {
		if s.Prefix().Addr().Is6() != is6 {
			continue
		}
		exists = true
		if a, err := s.Allocate(); err == nil {
			return netip.PrefixFrom(a, s.Prefix().Bits()), true, nil
		}
	}
	if exists {
		err = r.full(is6)
	}
	return p, false, err
}

// full is the error of a network that has no free address of a family.
func (r *ranges) full(is6 bool) error {
	var names []string
	var taken, of uint64
	for _, s := range r.subnets {
		if s.Prefix().Addr().Is6() == is6 {
			t, o := s.Usage()
			names, taken, of = append(names, s.String()), taken+t, of+o
		}
	}
	todo := "remove tasks from it, or give services a network with a larger subnet"
	if r.mesh {
		todo = "every task and every service with published ports needs one: remove some, or make the swarm with a larger range (meshd --mesh-subnet)"
	}
	return fullError{r.id, fmt.Errorf("network %s (%s) has %w: %d of %d in use; %s",
		r.name, strings.Join(names, ", "), ipam.ErrExhausted, taken, of, todo)}
}

// fullError is that a network, by ID, has no free address.
type fullError struct {
	network string
	error
}

// Unwrap gives what is said of it.
func (e fullError) Unwrap() error { return e.error }

// room is how many tasks a network has addresses for; one that is gone keeps
// nobody waiting.
func (b *book) room(network string) uint64 {
	r := b.networks[network]
	if r == nil {
		return math.MaxUint64
	}
	free := map[bool]uint64{}
	for _, s := range r.subnets {
		taken, of := s.Usage()
		free[s.Prefix().Addr().Is6()] += of - taken
	}
	least := uint64(math.MaxUint64)
	for _, n := range free {
		least = min(least, n)
	}
	return least
}

// publish makes the service's published ports exactly these.
func (b *book) publish(service string, want []port) {
	for _, p := range b.portsOf[service] {
		if !slices.Contains(want, p) && b.ports[p] == service {
			delete(b.ports, p)
			b.freed = true
		}
	}
	for _, p := range want {
		if _, taken := b.ports[p]; !taken {
			b.ports[p] = service
		}
	}
	if b.portsOf[service] = want; len(want) == 0 {
		delete(b.portsOf, service)
	}
}

// host makes the ports that a task has on its node exactly these.
func (b *book) host(task string, want []port) {
	for _, p := range b.hostedBy[task] {
		if b.hosted[p]--; b.hosted[p] == 0 {
			delete(b.hosted, p)
			b.freed = true
		}
	}
	for _, p := range want {
		b.hosted[p]++
	}
	if b.hostedBy[task] = want; len(want) == 0 {
		delete(b.hostedBy, task)
	}
}

// hostedByTask are the ports from the range that a task was given on its node.
func hostedByTask(t *store.Task) []port {
	var out []port
	for _, p := range t.Status.PortStatus.Ports {
		if p.PublishedPort >= firstPort && p.PublishedPort <= lastPort {
			out = append(out, port{cmp.Or(p.Protocol, network.TCP), p.PublishedPort})
		}
	}
	return out
}

// freePort finds a port that nobody publishes.
func (b *book) freePort(protocol network.IPProtocol) (uint32, error) {
	for range lastPort - firstPort + 1 {
		p := port{protocol, b.nextPort}
		if b.nextPort++; b.nextPort > lastPort {
			b.nextPort = firstPort
		}
		if _, taken := b.ports[p]; !taken && b.hosted[p] == 0 {
			return p.number, nil
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d for %s", firstPort, lastPort, protocol)
}

// freeVNI finds the VNI behind last that no network has.
func (b *book) freeVNI(last uint32) (uint32, error) {
	next := max(last, firstVNI)
	for range lastVNI - firstVNI {
		if next++; next > lastVNI {
			next = firstVNI + 1
		}
		if !b.vnis[next] {
			return next, nil
		}
	}
	return 0, errors.New("every VXLAN network identifier is in use")
}

// claimsOfTask are the addresses that a stored task names.
func claimsOfTask(t *store.Task) []claim {
	var out []claim
	for _, a := range t.NetworksAttachments {
		for _, p := range a.Addresses {
			out = append(out, claim{a.Network.ID, p.Addr()})
		}
	}
	return out
}

func claimsOfService(s *store.Service) (addrs []claim, ports []port) {
	for _, v := range s.Endpoint.VirtualIPs {
		addrs = append(addrs, claim{v.NetworkID, v.Addr.Addr()})
	}
	for _, p := range s.Endpoint.Ports {
		if p.PublishMode != swarm.PortConfigPublishModeHost {
			ports = append(ports, port{p.Protocol, p.PublishedPort})
		}
	}
	return addrs, ports
}
