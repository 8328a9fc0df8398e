package allocator

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// vniOption is how Swarm's drivers are told the VNI.
const vniOption = "com.docker.network.driver.overlay.vxlanid_list"

// state is what decisions read besides the book.
type state interface {
	Network(id string) *store.Network
	NetworkByName(name string) *store.Network
	Ingress() *store.Network
	Service(id string) *store.Service
	Task(id string) *store.Task
	Node(id string) *store.Node
}

// network gives a network its VNI and subnets.
func (b *book) network(n *store.Network, last *uint32, avoid []netip.Prefix) (*store.Network, error) {
	next := *n
	if next.VNI == 0 {
		vni, err := b.freeVNI(*last)
		if err != nil {
			return nil, err
		}
		next.VNI = vni
	}
	options, err := b.subnets(n, avoid)
	if err != nil {
		return nil, err
	}
	next.IPAMOptions = options
	next.DriverState = swarm.Driver{Name: "overlay", Options: map[string]string{vniOption: strconv.FormatUint(uint64(next.VNI), 10)}}
	next.Ready, next.Error = true, ""
	freed := b.freed
	if err := b.addNetwork(&next); err != nil {
		b.dropNetwork(n.ID)
		b.freed = freed
		return nil, err
	}
	b.undo = append(b.undo, func() { b.dropNetwork(n.ID) })
	if n.VNI == 0 {
		*last = next.VNI
	}
	return &next, nil
}

// subnets resolves what the network's spec leaves open.
func (b *book) subnets(n *store.Network, avoid []netip.Prefix) (*swarm.IPAMOptions, error) {
	out := swarm.IPAMOptions{Driver: swarm.Driver{Name: "default"}}
	given := n.Spec.IPAMOptions
	if given == nil {
		given = n.IPAMOptions
	}
	if given != nil {
		out.Configs = slices.Clone(given.Configs)
		if given.Driver.Name != "" {
			out.Driver = given.Driver
		}
	}
	for is6, enabled := range []bool{n.IPv4Enabled(), n.Spec.IPv6Enabled} {
		is6 := is6 == 1
		if !enabled || slices.ContainsFunc(out.Configs, func(c swarm.IPAMConfig) bool { return c.Subnet.Addr().Is6() == is6 }) {
			continue
		}
		s, err := b.pools.Allocate(is6, avoid)
		if err != nil {
			return nil, err
		}
		b.pools.Release(s) // addNetwork reserves it with the given ones
		out.Configs = append(out.Configs, swarm.IPAMConfig{Subnet: s})
	}
	for i := range out.Configs {
		c := &out.Configs[i]
		s, err := newSubnet(*c, n.Aux)
		if err != nil {
			return nil, err
		}
		c.Subnet, c.Gateway = s.Prefix(), s.Gateway()
	}
	return &out, nil
}

// targets are the networks of a task template.
type targets struct {
	overlays []*store.Network
	// local says that the task uses a network of its node: host, none, bridge.
	local bool
}

func resolve(v state, configs []swarm.NetworkAttachmentConfig) (targets, error) {
	var out targets
	for _, c := range configs {
		n := v.Network(c.Target)
		if n == nil {
			n = v.NetworkByName(c.Target)
		}
		switch {
		case n == nil && isLocal(c.Target):
			out.local = true
		case n == nil:
			return out, fmt.Errorf("network %s not found", c.Target)
		case n.Error != "":
			return out, fmt.Errorf("network %s: %s", n.Spec.Name, n.Error)
		case !n.Ready:
			return out, fmt.Errorf("network %s has no subnet yet", n.Spec.Name)
		case !slices.Contains(out.overlays, n):
			out.overlays = append(out.overlays, n)
		}
	}
	return out, nil
}

func isLocal(name string) bool { return name == "host" || name == "none" || name == "bridge" }

// service brings a service's endpoint in line with its spec; nil if it is.
func (b *book) service(v state, s *store.Service) (*store.Service, error) {
	spec := swarm.EndpointSpec{}
	if s.Spec.EndpointSpec != nil {
		spec = *s.Spec.EndpointSpec
	}
	if spec.Mode == "" {
		spec.Mode = swarm.ResolutionModeVIP
	}
	addrsBefore, portsBefore := slices.Clone(b.claims[s.ID]), b.portsOf[s.ID]
	ports, err := b.portsFor(s, spec)
	var vips []swarm.EndpointVirtualIP
	if err == nil {
		vips, err = b.vipsFor(v, s, spec.Mode, slices.ContainsFunc(ports, ingress))
	}
	if err != nil {
		b.restore(s.ID, addrsBefore)
		b.publish(s.ID, portsBefore)
		return nil, err
	}
	endpoint := swarm.Endpoint{Spec: spec, Ports: ports, VirtualIPs: vips}
	if reflect.DeepEqual(endpoint, s.Endpoint) {
		return nil, nil
	}
	next := *s
	next.Endpoint = endpoint
	return &next, nil
}

func ingress(p swarm.PortConfig) bool { return p.PublishMode != swarm.PortConfigPublishModeHost }

// portsFor chooses the ports that the spec leaves open and checks the others.
func (b *book) portsFor(s *store.Service, spec swarm.EndpointSpec) ([]swarm.PortConfig, error) {
	var out []swarm.PortConfig
	before := b.portsOf[s.ID]
	b.undo = append(b.undo, func() { b.publish(s.ID, before) })
	had := slices.Clone(s.Endpoint.Ports)
	for _, p := range spec.Ports {
		if p.Protocol == "" {
			p.Protocol = network.TCP
		}
		if p.PublishMode == "" {
			p.PublishMode = swarm.PortConfigPublishModeIngress
		}
		if !ingress(p) {
			out = append(out, p)
			continue
		}
		if p.PublishedPort == 0 {
			p.PublishedPort = keptPort(&had, p)
		}
		var err error
		if p.PublishedPort == 0 {
			if p.PublishedPort, err = b.freePort(p.Protocol); err != nil {
				return nil, err
			}
		}
		key := port{p.Protocol, p.PublishedPort}
		if owner := b.ports[key]; owner != "" && owner != s.ID {
			return nil, fmt.Errorf("port %d/%s is already published by service %s", p.PublishedPort, p.Protocol, owner)
		}
		b.publish(s.ID, append(slices.Clone(b.portsOf[s.ID]), key))
		out = append(out, p)
	}
	return out, nil
}

// keptPort is the port that an open one got before, zero if none.
func keptPort(had *[]swarm.PortConfig, p swarm.PortConfig) uint32 {
	for i, h := range *had {
		if h.Name == p.Name && h.Protocol == p.Protocol && h.TargetPort == p.TargetPort && ingress(h) &&
			h.PublishedPort >= firstPort && h.PublishedPort <= lastPort {
			*had = slices.Delete(*had, i, i+1)
			return h.PublishedPort
		}
	}
	return 0
}

// vipsFor keeps the virtual addresses on networks that the service still uses and
// takes those that are missing.
func (b *book) vipsFor(v state, s *store.Service, mode swarm.ResolutionMode, published bool) ([]swarm.EndpointVirtualIP, error) {
	used, err := resolve(v, s.Spec.TaskTemplate.Networks)
	if err != nil || mode != swarm.ResolutionModeVIP {
		return nil, err
	}
	networks := used.overlays
	if mesh := v.Ingress(); published && mesh != nil && mesh.Ready && !slices.Contains(networks, mesh) {
		networks = append([]*store.Network{mesh}, networks...)
	}
	wanted, err := assign(v, s.Spec.Labels, used.overlays)
	if err != nil {
		return nil, err
	}
	var out []swarm.EndpointVirtualIP
	for _, n := range networks {
		addrs, err := b.vipsOn(v, s, n, wanted[n.ID])
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			out = append(out, swarm.EndpointVirtualIP{NetworkID: n.ID, Addr: a})
		}
	}
	return out, nil
}

// vipsOn are a service's virtual addresses on a network, one of each family that
// the network has: the one it asks for, else the one it has, else a free one.
func (b *book) vipsOn(v state, s *store.Service, n *store.Network, wanted []netip.Addr) ([]netip.Prefix, error) {
	var has []netip.Prefix
	for _, e := range s.Endpoint.VirtualIPs {
		if e.NetworkID == n.ID {
			has = append(has, e.Addr)
		}
	}
	if len(wanted) == 0 && len(has) > 0 {
		return has, nil
	}
	var out []netip.Prefix
	for _, is6 := range []bool{false, true} {
		family := func(a netip.Addr) bool { return a.Is6() == is6 }
		if i := slices.IndexFunc(wanted, family); i >= 0 {
			p, err := b.takeGiven(v, s.ID, claim{n.ID, wanted[i]})
			if err != nil {
				return nil, fmt.Errorf("label %s: %w", labelVIP, err)
			}
			out = append(out, p)
			continue
		}
		if i := slices.IndexFunc(has, func(p netip.Prefix) bool { return family(p.Addr()) }); i >= 0 {
			out = append(out, has[i])
			continue
		}
		p, ok, err := b.takeFree(s.ID, n.ID, is6)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// task gives a task its addresses and hands it on to the scheduler; for lost see inherit.
func (b *book) task(v state, t *store.Task, template *swarm.TaskSpec, now time.Time) (next, lost *store.Task, err error) {
	used, err := resolve(v, template.Networks)
	if err != nil {
		return nil, nil, err
	}
	networks := used.overlays
	if !used.local {
		mesh := v.Ingress()
		if mesh == nil || !mesh.Ready {
			return nil, nil, fmt.Errorf("the swarm has no ingress network, which carries every task's default route")
		}
		networks = slices.DeleteFunc(networks, func(n *store.Network) bool { return n == mesh })
		networks = append([]*store.Network{mesh}, networks...)
	}
	steps := len(b.undo)
	if lost, err = b.inherit(v, t); err != nil {
		return nil, nil, err
	}
	inherited := slices.Clone(b.claims[t.ID])
	out := *t
	out.NetworksAttachments = nil
	for _, n := range networks {
		addrs, err := b.addrsOn(t.ID, n, inherited)
		if err != nil {
			b.rewind(steps) // all or nothing
			return nil, nil, err
		}
		a := swarm.NetworkAttachment{Addresses: addrs}
		a.Network.ID = n.ID
		out.NetworksAttachments = append(out.NetworksAttachments, a)
	}
	out.Status = swarm.TaskStatus{Timestamp: now, State: swarm.TaskStatePending, Message: "pending task scheduling"}
	return &out, lost, nil
}

// addrsOn are a task's addresses on a network, of each family the one that it has
// inherited or else a free one.
func (b *book) addrsOn(task string, n *store.Network, inherited []claim) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, is6 := range []bool{false, true} {
		i := slices.IndexFunc(inherited, func(c claim) bool { return c.network == n.ID && c.addr.Is6() == is6 })
		if i >= 0 {
			if s := b.subnet(inherited[i]); s != nil {
				out = append(out, netip.PrefixFrom(inherited[i].addr, s.Prefix().Bits()))
				continue
			}
		}
		p, ok, err := b.takeFree(task, n.ID, is6)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, p)
		}
	}
	return out, nil
}
