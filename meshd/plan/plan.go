// Package plan compiles what the managers say into what the data plane should
// be: one pure function from (network state, this node's tasks, who is alive)
// to the desired states of overlay, dns and ipvs. All three come out of the
// same input, so that a name, a VIP and a route can never disagree.
package plan

import (
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
	"github.com/meshd/meshd/overlay/wireguard"
)

// Input is all that the data plane of a node follows from.
type Input struct {
	// Self is this node's ID, SelfAddr its underlay address.
	Self     string
	SelfAddr netip.Addr
	// DataPathPort is the UDP port of the cluster's tunnels.
	DataPathPort uint16
	// KeyEpoch is that of the nodes' WireGuard keys.
	KeyEpoch uint64
	Nodes    []protocol.Node
	// Dead are the IDs of nodes that cannot serve right now, whatever the managers
	// know: no names and no balancers lead to them. Their routes stay, since
	// connections may outlive a short absence.
	Dead     map[string]bool
	Networks []protocol.Network
	// Tasks are the ones assigned to this node.
	Tasks []protocol.Assignment
	// Interfaces have the addresses that published ports answer on.
	Interfaces []Interface
	// PublishOn lists the addresses that published ports answer on where their
	// service does not say; see CheckAddresses. Empty: all.
	PublishOn string
	// Upstreams are the node's own resolvers.
	Upstreams []netip.AddrPort
}

// Output is the desired state of each part of the data plane.
type Output struct {
	Overlay overlay.State
	DNS     dns.State
	IPVS    ipvs.State
}

// Compile is deterministic: equal inputs give equal outputs.
func Compile(in Input) Output { return new(Compiler).Compile(in) }

// node is a node as this one sees it.
type node struct {
	protocol.Node
	// away: it does not answer, whatever the managers say.
	away bool
}

// out says that nothing on the node can serve.
func (n node) out() bool { return n.Down || n.away }

// nodesOf are the nodes by ID. None is dead to itself.
func nodesOf(in Input) map[string]node {
	nodes := make(map[string]node, len(in.Nodes))
	for _, n := range in.Nodes {
		nodes[n.ID] = node{Node: n, away: in.Dead[n.ID] && n.ID != in.Self}
	}
	return nodes
}

// assemble joins what networks need with what does not follow from them alone.
func assemble(in Input, nodes map[string]node, parts map[string]*part) Output {
	return Output{
		Overlay: assembleOverlay(in, parts),
		DNS:     assembleDNS(in, parts),
		IPVS:    assembleIPVS(in, nodes, parts),
	}
}

func assembleOverlay(in Input, parts map[string]*part) overlay.State {
	s := overlay.State{ID: in.Self, Local: in.SelfAddr, VXLANPort: in.DataPathPort, KeyEpoch: in.KeyEpoch}
	for _, n := range in.Nodes {
		if n.ID != in.Self && n.DataAddr.IsValid() {
			s.Peers = append(s.Peers, overlay.Peer{ID: n.ID, Addr: n.DataAddr, Transport: transport(n), Keys: keys(n), Down: n.Down})
		}
	}
	for _, n := range in.Networks {
		network := overlay.Network{ID: n.ID, Name: n.Name, VNI: n.VNI, Mesh: n.Ingress, Internal: n.Internal}
		if n.Ingress {
			// Its packets may carry the addresses of clients, which say nothing of their sender.
			network.Transport = overlay.TransportVXLAN
		}
		if n.Encrypted {
			network.Transport = overlay.TransportWireGuard
		}
		for _, sub := range n.Subnets {
			network.Subnets = append(network.Subnets, sub.Prefix)
			network.Gateways = append(network.Gateways, sub.Gateway)
		}
		s.Networks = append(s.Networks, network)
		s.Endpoints = append(s.Endpoints, parts[n.ID].endpoints...)
	}
	return s
}

// transport is what a node says that it takes.
func transport(n protocol.Node) overlay.Transport {
	if n.Direct {
		return overlay.TransportDirect
	}
	return overlay.TransportVXLAN
}

// keys are the WireGuard keys that a node tells of.
func keys(n protocol.Node) []wireguard.PublicKey {
	var out []wireguard.PublicKey
	for _, k := range n.Keys {
		if len(k.Key) == len(wireguard.Key{}) {
			out = append(out, wireguard.PublicKey{Epoch: k.Epoch, Key: wireguard.Key(k.Key), Port: k.Port})
		}
	}
	return out
}

// remotes are a network's endpoints on other nodes.
func remotes(n protocol.Network, nodes map[string]node, self string) []overlay.Endpoint {
	addrs := make(map[string]netip.Addr, len(nodes))
	for id, node := range nodes {
		addrs[id] = node.DataAddr
	}
	var out []overlay.Endpoint
	for _, e := range n.Endpoints {
		node := addrs[e.NodeID]
		if e.NodeID == self || !node.IsValid() {
			continue
		}
		for _, a := range e.Addrs {
			out = append(out, overlay.Endpoint{VNI: n.VNI, Addr: a, Node: node})
		}
	}
	return out
}

func assembleIPVS(in Input, nodes map[string]node, parts map[string]*part) ipvs.State {
	s := ipvs.State{NodeAddrs: nodeAddrs(in.Interfaces), TunnelAddr: in.SelfAddr, Clients: clients(in)}
	for _, n := range in.Networks {
		if n.Ingress {
			s.MeshVNI, s.MeshAddr = n.VNI, gateway4(n)
			s.Services = append(s.Services, oncePerKey(append(hosted(in, n, nodes), parts[n.ID].services...))...)
			continue
		}
		s.Services = append(s.Services, parts[n.ID].services...)
	}
	return s
}

// gateway4 is the IPv4 address that each node has for itself on a network.
func gateway4(n protocol.Network) netip.Addr {
	for _, sub := range n.Subnets {
		if sub.Gateway.Is4() {
			return sub.Gateway
		}
	}
	return netip.Addr{}
}

// balanced are a network's virtual IPs, or on the mesh network published ports.
func balanced(in Input, n protocol.Network, nodes map[string]node) []ipvs.Service {
	backends := backendsByService(n, nodes, in.Self)
	var out []ipvs.Service
	for _, svc := range n.Services {
		if n.Ingress {
			for _, p := range ingressPorts(svc.Ports) {
				ports := published(in, ipvs.Service{Key: ipvs.Key{VNI: n.VNI}, Name: svc.Name, Backends: backends[svc.ID]}, p, svc.Labels)
				out = append(out, spread(ports, svc.Labels)...)
			}
			continue
		}
		for _, vip := range svc.VIPs {
			out = append(out, spread([]ipvs.Service{{
				Key: ipvs.Key{VNI: n.VNI, VIP: vip}, Name: svc.Name, Backends: family(backends[svc.ID], vip),
			}}, svc.Labels)...)
		}
	}
	return out
}

// oncePerKey leaves the first of published services with the same key: managers refuse a
// port that is taken, but two of them may be asked at the same moment, and then
// the others must work all the same.
func oncePerKey(services []ipvs.Service) []ipvs.Service {
	seen := make(map[ipvs.Key]bool, len(services))
	return slices.DeleteFunc(services, func(s ipvs.Service) bool {
		had := seen[s.Key]
		seen[s.Key] = true
		return had
	})
}

// hosted makes one service per port that a task of this node publishes in mode
// host: it answers on this node only, and leads to this node's tasks only.
func hosted(in Input, n protocol.Network, nodes map[string]node) []ipvs.Service {
	endpoints := map[string]protocol.Endpoint{}
	for _, e := range n.Endpoints {
		endpoints[e.TaskID] = e
	}
	var out []ipvs.Service
	at := map[ipvs.Key]int{}
	for _, t := range in.Tasks {
		e, ok := endpoints[t.Task.ID]
		if !ok || t.Endpoint == nil {
			continue
		}
		own := backendsByService(protocol.Network{Endpoints: []protocol.Endpoint{e}}, nodes, e.NodeID)[e.ServiceID]
		for _, p := range hostPorts(t.Endpoint.Ports) {
			for _, s := range published(in, ipvs.Service{Key: ipvs.Key{VNI: n.VNI}, Name: t.ServiceName, Backends: own}, p, t.Service.Labels) {
				if i, ok := at[s.Key]; ok { // an old task still drains while its successor serves
					out[i].Backends = append(out[i].Backends, s.Backends...)
					continue
				}
				at[s.Key] = len(out)
				out = append(out, s)
			}
		}
	}
	return out
}

func ingressPorts(ports []swarm.PortConfig) []swarm.PortConfig {
	return slices.DeleteFunc(slices.Clone(ports), func(p swarm.PortConfig) bool { return p.PublishMode == swarm.PortConfigPublishModeHost })
}

func hostPorts(ports []swarm.PortConfig) []swarm.PortConfig {
	return slices.DeleteFunc(slices.Clone(ports), func(p swarm.PortConfig) bool { return p.PublishMode != swarm.PortConfigPublishModeHost })
}

// published makes of a service without a port one for a published port, and
// another one for IPv6 where there are tasks that speak it; or one for each of the
// node's addresses, where the labels choose some.
func published(in Input, svc ipvs.Service, p swarm.PortConfig, labels map[string]string) []ipvs.Service {
	if p.PublishedPort == 0 {
		return nil
	}
	svc.Port, svc.Protocol = uint16(p.PublishedPort), ipvs.TCP
	if p.Protocol == "udp" {
		svc.Protocol = ipvs.UDP
	}
	four, six := svc, svc
	four.Backends, six.Backends, six.VIP = nil, nil, netip.IPv6Unspecified()
	for _, b := range svc.Backends {
		b.Port = uint16(p.TargetPort)
		if b.Addr.Is4() {
			four.Backends = append(four.Backends, b)
		} else {
			six.Backends = append(six.Backends, b)
		}
	}
	addrs, everywhere := answersOn(in, labels, p.PublishedPort)
	if everywhere {
		addrs = []netip.Addr{four.VIP, six.VIP}
	}
	var out []ipvs.Service
	for _, a := range addrs {
		s := four
		if a.Is6() {
			s = six
		}
		s.VIP = a
		if !a.Is6() || len(s.Backends) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// backendsByService lists who may get connections: serving endpoints on nodes
// that are up, and draining ones for the connections they still have. So do those
// on nodes that do not answer: if the alarm is false, their connections go on.
func backendsByService(n protocol.Network, nodes map[string]node, self string) map[string][]ipvs.Backend {
	byService := make(map[string]weights, len(n.Services))
	for _, s := range n.Services {
		byService[s.ID], _ = weightsOf(s.Labels) // what makes no sense, from a manager of another version, is left out
	}
	out := map[string][]ipvs.Backend{}
	for _, e := range n.Endpoints {
		on := nodes[e.NodeID]
		if e.State == protocol.EndpointStarting || on.Down {
			continue
		}
		w := byService[e.ServiceID].on(on.Node)
		b := ipvs.Backend{Draining: e.State == protocol.EndpointDraining || on.away || w == 0, Away: on.away, Local: e.NodeID == self}
		if w > 1 { // one is what no weight means, too
			b.Weight = w
		}
		for _, b.Addr = range e.Addrs {
			out[e.ServiceID] = append(out[e.ServiceID], b)
		}
	}
	return out
}

// family keeps the backends that speak the VIP's IP version.
func family(backends []ipvs.Backend, vip netip.Addr) []ipvs.Backend {
	var out []ipvs.Backend
	for _, b := range backends {
		if b.Addr.Is4() == vip.Is4() {
			out = append(out, b)
		}
	}
	return out
}
