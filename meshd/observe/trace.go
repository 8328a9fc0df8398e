package observe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
)

// Trace is the way of a packet from a container of this node, as far as this
// node's kernel decides it. Nothing is sent.
type Trace struct {
	From, To string
	Steps    []Step
	// Reaches says whether some way leads to the end.
	Reaches bool
}

// Step is one decision on the way.
type Step struct {
	// Hop is what decides: container, name, network, vip, port, endpoint, tunnel, mtu or way out.
	Hop string
	// Says is what it holds.
	Says string
	// OK is false where the way breaks; Advice is then what to do.
	OK     bool
	Advice string
}

// Trace follows a packet from a container, named by its task's ID, its own name,
// service.slot or an address, to a name, an address or a node, with a port or not.
func (o *Observer) Trace(_ context.Context, from, to string) (Trace, error) {
	v, err := o.told()
	if err != nil {
		return Trace{}, err
	}
	host, port, err := splitTarget(to)
	if err != nil {
		return Trace{}, err
	}
	c, err := findContainer(v, o.Overlay.Attachments(), from)
	if err != nil {
		return Trace{}, err
	}
	held, err := o.Balancer.Held()
	if err != nil {
		return Trace{}, fmt.Errorf("read what the load balancer holds: %w", err)
	}
	t := tracer{o: o, view: v, held: held, from: c, port: port, trace: Trace{From: c.name, To: to}}
	if t.leave() {
		for _, addr := range t.resolve(host) {
			t.to(addr)
		}
	}
	return t.trace, nil
}

// splitTarget reads "name", "name:80", "10.0.0.1:80", "[fd00::1]:80" and bare addresses.
func splitTarget(to string) (host string, port uint16, err error) {
	if _, err := netip.ParseAddr(to); err == nil || !strings.Contains(to, ":") {
		return to, 0, nil
	}
	host, text, err := net.SplitHostPort(to)
	if err != nil {
		return "", 0, remote.Errorf(errdefs.ErrInvalidArgument, "%q is neither NAME, ADDRESS, NAME:PORT nor ADDRESS:PORT", to)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, remote.Errorf(errdefs.ErrInvalidArgument, "%q is no port", text)
	}
	return host, uint16(n), nil
}

// container is where a trace begins.
type container struct {
	name   string
	places []place
}

// place is a container's address on a network.
type place struct {
	network protocol.Network
	addr    netip.Addr
}

// on finds the address that the container sends from to another one on a network;
// one of the other IP version if it has no better.
func (c container) on(id string, to netip.Addr) (from netip.Addr, member bool) {
	for _, p := range c.places {
		if p.network.ID != id {
			continue
		}
		if p.addr.Is4() == to.Is4() {
			return p.addr, true
		}
		from, member = p.addr, true
	}
	return from, member
}

// tracer collects the steps of one trace.
type tracer struct {
	o     *Observer
	view  View
	held  ipvs.State
	from  container
	port  uint16
	trace Trace
}

func (t *tracer) ok(hop, format string, args ...any) {
	t.trace.Steps = append(t.trace.Steps, Step{Hop: hop, Says: fmt.Sprintf(format, args...), OK: true})
}

func (t *tracer) broken(hop, advice, format string, args ...any) {
	t.trace.Steps = append(t.trace.Steps, Step{Hop: hop, Says: fmt.Sprintf(format, args...), Advice: advice})
}

// leave looks at the container's own interfaces; false if it has none to send from.
func (t *tracer) leave() bool {
	sound := false
	for _, p := range t.from.places {
		path, err := t.o.Overlay.Path(p.network.VNI, p.addr)
		switch {
		case err != nil:
			t.broken("container", "see this node's log", "the kernel could not be read: %v", err)
		case path.Device == "":
			t.broken("container", "docker service update --force starts its tasks anew", "%s at %s on network %s has no interface on this node", t.from.name, p.addr, p.network.Name)
		case !path.Guarded:
			t.broken("container", "meshd puts it back within seconds; see meshd_repairs_total and this node's log",
				"%s at %s on network %s: nothing looks at what comes from its interface %s", t.from.name, p.addr, p.network.Name, path.Device)
		default:
			sound = true
			t.ok("container", "%s is %s on network %s (VNI %d), interface %s, MTU %d", t.from.name, p.addr, p.network.Name, p.network.VNI, path.Device, path.MTU)
		}
	}
	return sound
}

// mostTraced bounds the addresses that are followed.
const mostTraced = 16

// resolve gives the addresses that the container gets for a name.
func (t *tracer) resolve(host string) []netip.Addr {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}
	}
	asker, mesh := t.asker()
	if !mesh {
		t.broken("name", "only tasks ask meshd's resolver; other containers use the engine's", "%s is on no network from which names are asked", t.from.name)
		return nil
	}
	answer := t.o.Resolver.Lookup(asker, host)
	switch {
	case !answer.Client:
		t.broken("name", "meshctl net check tells whether the resolver has the newest state", "the resolver does not know %s and refuses its questions", asker)
	case answer.Known && len(answer.Addrs) == 0:
		t.broken("name", "docker service ps "+host+" tells why none runs", "%s is known, but nobody serves it", host)
	case answer.Known:
		t.ok("name", "%s is %s for %s", host, joined(answer.Addrs), asker)
		if len(answer.Addrs) > mostTraced {
			t.ok("name", "only the first %d addresses are followed", mostTraced)
		}
		return answer.Addrs[:min(len(answer.Addrs), mostTraced)]
	default:
		return t.elsewhere(host, answer.Upstreams)
	}
	return nil
}

// elsewhere deals with a name that is on none of the container's networks: a
// node's, one of another network, or the world's.
func (t *tracer) elsewhere(host string, upstreams []netip.AddrPort) []netip.Addr {
	for _, n := range t.view.Nodes {
		if n.ID == host || n.Hostname == host {
			t.ok("name", "%s is the node at %s", host, n.DataAddr)
			return []netip.Addr{n.DataAddr}
		}
	}
	for id, zone := range t.view.Desired.DNS.Zones {
		if _, ok := zone.Names[strings.ToLower(host)]; ok {
			name := t.view.networkName(id)
			t.broken("name", fmt.Sprintf("docker service update --network-add %s gives the container's service that network", name),
				"%s is a name on network %s, which %s is not on", host, name, t.from.name)
			return nil
		}
	}
	t.broken("name", "docker service ls shows the services; both must be on one network", "%s is unknown on the networks of %s; the question goes on to %v", host, t.from.name, upstreams)
	return nil
}

func (v View) networkName(id string) string {
	for _, n := range v.Networks {
		if n.ID == id {
			return n.Name
		}
	}
	return id
}

// asker is the address that the container's questions come from.
func (t *tracer) asker() (netip.Addr, bool) {
	for _, p := range t.from.places {
		if p.network.Ingress {
			return p.addr, true
		}
	}
	return netip.Addr{}, false
}

// to follows a packet to one address.
func (t *tracer) to(addr netip.Addr) {
	for _, n := range t.view.Networks {
		inside := slices.ContainsFunc(n.Subnets, func(s protocol.Subnet) bool { return s.Prefix.Contains(addr) })
		if !inside {
			continue
		}
		own, member := t.from.on(n.ID, addr)
		switch {
		case !member:
			t.broken("network", fmt.Sprintf("docker service update --network-add %s gives the container's service that network", n.Name),
				"%s is on network %s, which %s is not on: such packets are dropped (foreign-network)", addr, n.Name, t.from.name)
		case n.Ingress:
			t.broken("network", "use an overlay network that both are on", "%s is on the mesh network, where containers reach their node and the world, but not each other", addr)
		default:
			t.ok("network", "%s is on network %s (VNI %d); the packet leaves from %s", addr, n.Name, n.VNI, own)
			t.onNetwork(n, addr)
		}
		return
	}
	t.outside(addr)
}

// onNetwork follows a packet to a VIP or a container of a network.
func (t *tracer) onNetwork(n protocol.Network, addr netip.Addr) {
	for _, s := range t.held.Services {
		if s.Key == (ipvs.Key{VNI: n.VNI, VIP: addr}) {
			t.balanced("vip", fmt.Sprintf("VIP %s", addr), n, s)
			return
		}
	}
	for _, s := range t.view.Desired.IPVS.Services {
		if s.VNI == n.VNI && s.VIP == addr {
			t.broken("vip", "meshctl net check shows what the kernel lacks; this node's log says why", "%s is the VIP of %s, but the kernel does not hold it", addr, s.Name)
			return
		}
	}
	t.endpoint(n, addr)
}

// outside follows a packet that leaves the overlay: to a node's published port, or the world.
func (t *tracer) outside(addr netip.Addr) {
	self := slices.Contains(t.held.NodeAddrs, addr)
	at := slices.IndexFunc(t.view.Nodes, func(n protocol.Node) bool { return n.DataAddr == addr })
	if !self && at < 0 {
		t.ok("way out", "%s is on no network of the swarm: the packet goes to this node's own routing, with this node's address as its source", addr)
		t.trace.Reaches = true
		return
	}
	name := "this node"
	if at >= 0 && t.view.Nodes[at].ID != t.view.Self {
		name = "node " + nodeName(t.view.Nodes[at])
	}
	mesh, _ := t.view.network(t.held.MeshVNI)
	published := false
	for _, s := range t.held.Services {
		if s.VNI == t.held.MeshVNI && s.Published() && s.Port == t.port && (s.Everywhere() || s.VIP == addr) {
			published = true
			t.balanced("port", fmt.Sprintf("port %d/%s of %s", s.Port, protocolName(s.Protocol), name), mesh, s)
		}
	}
	if !published {
		t.ok("way out", "%s is %s and publishes no port %d: the packet goes to that machine's own processes", addr, name, t.port)
		t.trace.Reaches = true
	}
}

// balanced follows a packet to every backend that it may get.
func (t *tracer) balanced(hop, what string, n protocol.Network, s ipvs.Service) {
	name := s.Name
	for _, want := range t.view.Desired.IPVS.Services {
		if want.Key == s.Key {
			name = want.Name
		}
	}
	serving := 0
	texts := make([]string, 0, len(s.Backends))
	for _, b := range s.Backends {
		text := b.Addr.String()
		if b.Weight > 1 {
			text += fmt.Sprintf(" (weighs %d)", b.Weight)
		}
		if b.Away {
			text += " (its node does not answer: no new connections)"
		} else if b.Draining {
			text += " (draining: no new connections)"
		} else {
			serving++
		}
		if b.Ejected {
			text += " (ejected: it failed, and gets no new connections for a while; see meshctl net check)"
		}
		texts = append(texts, text)
	}
	if serving == 0 {
		t.broken(hop, "docker service ps "+name+" tells why no task serves", "%s of service %s has no serving backend (%d draining): connections are refused", what, name, len(s.Backends))
		return
	}
	t.ok(hop, "%s of service %s leads to one of %s", what, name, strings.Join(texts, ", "))
	for i, b := range s.Backends {
		if i == mostTraced {
			t.ok(hop, "only the first %d backends are followed", mostTraced)
			return
		}
		if !b.Draining {
			t.endpoint(n, b.Addr)
			t.answer(n, s, b)
		}
	}
}

// answer says how what a backend answers to clients outside gets to them, where that was chosen.
func (t *tracer) answer(n protocol.Network, s ipvs.Service, b ipvs.Backend) {
	if !s.DirectReturn || b.Local {
		return
	}
	path, err := t.o.Overlay.Path(n.VNI, b.Addr)
	switch {
	case err != nil: // endpoint has said it
	case !t.held.TunnelAddr.IsValid() || t.held.TunnelAddr.Is4() != b.Addr.Is4():
		t.ok("answer", "answers come back by this node: clients of this IP version do not call the address that the other nodes know it by")
	case path.Returns:
		t.ok("answer", "answers return directly to clients outside that call %s and that the task's node reaches by the nodes' common link", t.held.TunnelAddr)
	default:
		t.ok("answer", "answers come back by this node: it does not send to the task's node directly (meshctl net trace between two tasks, meshd_peers)")
	}
}

// endpoint follows a packet to a container's address.
func (t *tracer) endpoint(n protocol.Network, addr netip.Addr) {
	who := addr.String()
	e, known := t.view.endpoint(n.VNI, addr)
	if known {
		who = fmt.Sprintf("%s (%s, %s)", addr, e.Name, e.State)
	}
	path, err := t.o.Overlay.Path(n.VNI, addr)
	if err != nil {
		t.broken("endpoint", "see this node's log", "the kernel could not be read: %v", err)
		return
	}
	t.path(who, path, e, known)
}

// findContainer looks for the container that a trace begins at.
func findContainer(v View, attached []attachment, ref string) (container, error) {
	addr, _ := netip.ParseAddr(ref)
	for _, a := range v.Tasks {
		name := plan.ContainerName(a)
		slot, _, _ := strings.Cut(strings.TrimPrefix(name, a.ServiceName+"."), ".")
		c := container{name: name}
		for _, at := range a.Task.NetworksAttachments {
			for _, n := range v.Networks {
				for _, p := range at.Addresses {
					if n.ID == at.Network.ID {
						c.places = append(c.places, place{n, p.Addr()})
					}
				}
			}
		}
		has := slices.ContainsFunc(c.places, func(p place) bool { return p.addr == addr })
		if has || ref == name || ref == a.Task.ID || ref == a.ServiceName+"."+slot {
			return withPlaces(c)
		}
	}
	for _, a := range attached {
		for _, p := range a.Addrs {
			if n, ok := v.network(a.VNI); ok && p.Addr() == addr {
				return container{name: "container at " + ref, places: []place{{n, addr}}}, nil
			}
		}
	}
	return container{}, v.notHere(ref, addr)
}

func withPlaces(c container) (container, error) {
	if len(c.places) == 0 {
		return c, remote.Errorf(errdefs.ErrFailedPrecondition, "container %s is on no network of the swarm; its packets go its engine's way", c.name)
	}
	return c, nil
}

// notHere says where a container is that this node does not have.
func (v View) notHere(ref string, addr netip.Addr) error {
	for _, n := range v.Networks {
		for _, e := range n.Endpoints {
			if e.NodeID != v.Self && (e.Name == ref || e.TaskID == ref || slices.Contains(e.Addrs, addr)) {
				return remote.Errorf(errdefs.ErrNotFound, "%s is on node %s: only that node can trace from it (meshctl --host ...)", ref, nodeName(v.node(e.NodeID)))
			}
		}
	}
	names := make([]string, 0, len(v.Tasks))
	for _, a := range v.Tasks {
		names = append(names, plan.ContainerName(a))
	}
	if len(names) == 0 {
		return remote.Errorf(errdefs.ErrNotFound, "no container %s on this node; it runs no task", ref)
	}
	slices.Sort(names)
	return remote.Errorf(errdefs.ErrNotFound, "no container %s on this node; there are %s", ref, strings.Join(names, ", "))
}

func joined(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}
