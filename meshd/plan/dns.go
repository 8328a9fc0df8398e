package plan

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// dnsPort is where resolvers answer (RFC 1035).
const dnsPort = 53

// What a service's labels say to the resolver.
const (
	// labelTTL is how long answers about the service may be kept: "30", "500ms", "1m".
	labelTTL = "mesh.dns.ttl"
	// labelPort names a port that tasks listen on without its being published:
	// mesh.port.metrics=9090, mesh.port.gossip=7946/udp.
	labelPort = "mesh.port."
	// maxTTL bounds labelTTL: a longer one would outlive any deployment.
	maxTTL = 24 * time.Hour
)

func assembleDNS(in Input, parts map[string]*part) dns.State {
	s := dns.State{
		Zones:     map[string]dns.Zone{},
		Clients:   map[netip.Addr]dns.Client{},
		Upstreams: in.Upstreams,
	}
	ingress := ""
	for _, n := range in.Networks {
		for _, sub := range n.Subnets {
			s.Ours = append(s.Ours, sub.Prefix)
		}
		if n.Ingress {
			ingress = n.ID
			for _, sub := range n.Subnets {
				s.Listen = append(s.Listen, netip.AddrPortFrom(sub.Gateway, dnsPort))
			}
			continue
		}
		s.Zones[n.ID] = parts[n.ID].names.zone
	}
	for _, a := range in.Tasks {
		addClient(s.Clients, a, ingress)
	}
	return s
}

// zoneBuilder collects what one service has in a network's names.
type zoneBuilder struct {
	names map[string]dns.Name
	nodes map[string]node
}

// service adds all names that a service has under one of its names.
func (b *zoneBuilder) service(name string, svc protocol.Service, tasks []protocol.Endpoint) {
	if name == "" {
		return
	}
	ttl := labelledTTL(svc.Labels)
	var serving, all []netip.Addr
	var up []protocol.Endpoint
	groups := map[string][]protocol.Endpoint{}
	for _, e := range tasks {
		host := strings.ToLower(b.nodes[e.NodeID].Hostname)
		if e.Slot != 0 {
			groups[strconv.Itoa(e.Slot)] = append(groups[strconv.Itoa(e.Slot)], e)
		}
		if _, err := strconv.Atoi(host); host != "" && host != "tasks" && host != "all" && err != nil {
			groups[host] = append(groups[host], e)
		}
		if b.nodes[e.NodeID].out() || e.State == protocol.EndpointDraining {
			continue
		}
		all = append(all, e.Addrs...)
		if e.State == protocol.EndpointServing {
			serving = append(serving, e.Addrs...)
			up = append(up, e)
		}
	}
	addrs := svc.VIPs
	if len(addrs) == 0 {
		addrs = serving
	}
	b.add(name, dns.Name{Addrs: addrs, TTL: ttl})
	b.add("tasks."+name, dns.Name{Addrs: serving, TTL: ttl})
	b.add("all."+name, dns.Name{Addrs: all, TTL: ttl})
	for group, endpoints := range groups {
		b.add(group+"."+name, dns.Name{Addrs: b.best(endpoints), TTL: ttl})
	}
	for _, p := range servicePorts(svc) {
		b.add(p.label+"."+name, dns.Name{Targets: targets(up, p.port), TTL: ttl})
	}
}

// add joins what several services say about a name; the shortest TTL holds.
func (b *zoneBuilder) add(name string, more dns.Name) {
	e, known := b.names[name]
	for _, a := range more.Addrs {
		if !slices.Contains(e.Addrs, a) {
			e.Addrs = append(e.Addrs, a)
		}
	}
	for _, t := range more.Targets {
		if !slices.Contains(e.Targets, t) {
			e.Targets = append(e.Targets, t)
		}
	}
	if !known || more.TTL != 0 && (e.TTL == 0 || more.TTL < e.TTL) {
		e.TTL = more.TTL
	}
	b.names[name] = e
}

// best are the addresses of those that are furthest in serving, of several tasks
// that share a name: while a slot's task is replaced, both have its name.
func (b *zoneBuilder) best(endpoints []protocol.Endpoint) []netip.Addr {
	for _, state := range []protocol.EndpointState{protocol.EndpointServing, protocol.EndpointStarting, protocol.EndpointDraining} {
		var out []netip.Addr
		for _, e := range endpoints {
			if e.State == state && !b.nodes[e.NodeID].out() {
				out = append(out, e.Addrs...)
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

func targets(endpoints []protocol.Endpoint, port uint16) []dns.Target {
	var out []dns.Target
	for _, e := range endpoints {
		out = append(out, dns.Target{Name: strings.ToLower(e.Name), Port: port})
	}
	return out
}

// servicePort is a port under one of its SRV names, such as "_http._tcp".
type servicePort struct {
	label string
	port  uint16
}

// servicePorts are the ports that tasks listen on, as far as the service says so:
// published ones and labelled ones, each by number and by name.
func servicePorts(svc protocol.Service) []servicePort {
	var out []servicePort
	add := func(name, proto string, port uint32) {
		if proto == "" {
			proto = "tcp"
		}
		if port == 0 || port > 65535 {
			return
		}
		for _, label := range []string{strconv.Itoa(int(port)), strings.ToLower(name)} {
			p := servicePort{"_" + label + "._" + strings.ToLower(proto), uint16(port)}
			if label != "" && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	for _, p := range svc.Exposed {
		add(p.Name, string(p.Protocol), p.TargetPort)
	}
	for label, value := range svc.Labels {
		name, ok := strings.CutPrefix(label, labelPort)
		number, proto, _ := strings.Cut(value, "/")
		if port, err := strconv.ParseUint(number, 10, 16); ok && err == nil {
			add(name, proto, uint32(port))
		}
	}
	slices.SortFunc(out, func(a, b servicePort) int { return strings.Compare(a.label, b.label) })
	return out
}

// labelledTTL reads labelTTL; 0: not set, or not to be understood.
func labelledTTL(labels map[string]string) time.Duration {
	value, ok := labels[labelTTL]
	if !ok {
		return 0
	}
	ttl, err := time.ParseDuration(value)
	if seconds, e := strconv.ParseUint(value, 10, 32); e == nil {
		ttl, err = time.Duration(seconds)*time.Second, nil
	}
	switch {
	case err != nil || ttl < 0:
		return 0
	case ttl < time.Second:
		return dns.NotKept
	}
	return min(ttl, maxTTL)
}

// containerPrefix is the short form of a container's ID, which Docker gives a
// container as its host name; empty if the ID is not known.
func containerPrefix(id string) string {
	return id[:min(len(id), 12)]
}

// addClient lets a task ask: its queries come from its address on the mesh
// network, and see the networks that it is on.
func addClient(clients map[netip.Addr]dns.Client, a protocol.Assignment, ingress string) {
	c := dns.Client{Names: map[string][]netip.Addr{}, Decline: a.Beside}
	var from, own []netip.Addr
	for _, at := range a.Task.NetworksAttachments {
		for _, p := range at.Addresses {
			if at.Network.ID == ingress {
				from = append(from, p.Addr())
			} else {
				own = append(own, p.Addr())
			}
		}
		if at.Network.ID != ingress {
			c.Zones = append(c.Zones, at.Network.ID)
		}
	}
	if len(own) == 0 {
		own = from
	}
	c.Names[strings.ToLower(ContainerName(a))] = own
	if spec := a.Task.Spec.ContainerSpec; spec != nil {
		c.Upstreams = nameservers(spec.DNSConfig)
		// One with placeholders is among the network's names, filled in.
		if name := strings.ToLower(spec.Hostname); name != "" && !strings.Contains(name, "{{") {
			c.Names[name] = own
		}
	}
	for _, addr := range from {
		clients[addr] = c
	}
}

// nameservers are a task's own upstreams.
func nameservers(c *swarm.DNSConfig) []netip.AddrPort {
	if c == nil {
		return nil
	}
	var out []netip.AddrPort
	for _, a := range c.Nameservers {
		if a.IsValid() {
			out = append(out, netip.AddrPortFrom(a, dnsPort))
		}
	}
	return out
}

// ContainerName is Swarm's name for a task's container: service.slot.task, or
// service.node.task for a global service; a container of no task has its own.
func ContainerName(a protocol.Assignment) string {
	if a.Task.Spec.NetworkAttachmentSpec != nil {
		return a.Task.Name
	}
	slot := a.Task.NodeID
	if a.Task.Slot != 0 {
		slot = strconv.Itoa(a.Task.Slot)
	}
	return a.ServiceName + "." + slot + "." + a.Task.ID
}
