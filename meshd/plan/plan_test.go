package plan

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// fixture is two nodes, the mesh network and one user network with a service
// of three tasks: serving here, serving on node b, starting on node b.
func fixture() Input {
	endpoints := func(prefix string) []protocol.Endpoint {
		return []protocol.Endpoint{
			{TaskID: "t1", ServiceID: "s1", NodeID: "a", Slot: 1, Name: "web.1.t1", Addrs: []netip.Addr{addr(prefix + "11")}, State: protocol.EndpointServing},
			{TaskID: "t2", ServiceID: "s1", NodeID: "b", Slot: 2, Name: "web.2.t2", Addrs: []netip.Addr{addr(prefix + "12")}, State: protocol.EndpointServing},
			{TaskID: "t3", ServiceID: "s1", NodeID: "b", Slot: 3, Name: "web.3.t3", Addrs: []netip.Addr{addr(prefix + "13")}, State: protocol.EndpointStarting},
		}
	}
	return Input{
		Self: "a", SelfAddr: addr("198.18.0.1"),
		Nodes: []protocol.Node{{ID: "a", DataAddr: addr("198.18.0.1")}, {ID: "b", DataAddr: addr("198.18.0.2")}},
		Networks: []protocol.Network{
			{
				ID: "mesh", Name: "ingress", VNI: 4096, Ingress: true,
				Subnets:   []protocol.Subnet{{Prefix: netip.MustParsePrefix("10.255.0.0/16"), Gateway: addr("10.255.0.1")}},
				Services:  []protocol.Service{{ID: "s1", Name: "web", Ports: []swarm.PortConfig{{PublishedPort: 8080, TargetPort: 80, Protocol: "tcp"}}}},
				Endpoints: endpoints("10.255.0."),
			},
			{
				ID: "n1", Name: "Front", VNI: 4097,
				Subnets:   []protocol.Subnet{{Prefix: netip.MustParsePrefix("10.0.1.0/24"), Gateway: addr("10.0.1.1")}},
				Services:  []protocol.Service{{ID: "s1", Name: "web", VIPs: []netip.Addr{addr("10.0.1.2")}, Aliases: []string{"www"}}},
				Endpoints: endpoints("10.0.1."),
			},
		},
		Tasks: []protocol.Assignment{{
			ServiceName: "web",
			Task: swarm.Task{ID: "t1", Slot: 1, NodeID: "a", NetworksAttachments: []swarm.NetworkAttachment{
				{Network: swarm.Network{ID: "mesh"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.255.0.11/16")}},
				{Network: swarm.Network{ID: "n1"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.11/24")}},
			}},
		}},
	}
}

func TestOverlayKnowsOnlyRemoteEndpoints(t *testing.T) {
	got := Compile(fixture()).Overlay
	if len(got.Peers) != 1 || got.Peers[0].Addr != addr("198.18.0.2") {
		t.Fatalf("peers = %v, want node b only", got.Peers)
	}
	want := []overlay.Endpoint{
		{VNI: 4096, Addr: addr("10.255.0.12"), Node: addr("198.18.0.2")},
		{VNI: 4096, Addr: addr("10.255.0.13"), Node: addr("198.18.0.2")},
		{VNI: 4097, Addr: addr("10.0.1.12"), Node: addr("198.18.0.2")},
		{VNI: 4097, Addr: addr("10.0.1.13"), Node: addr("198.18.0.2")},
	}
	if !reflect.DeepEqual(got.Endpoints, want) {
		t.Fatalf("endpoints = %v, want %v", got.Endpoints, want)
	}
}

func TestTransportIsWhatThePeerSays(t *testing.T) {
	in := fixture()
	if s := Compile(in).Overlay; s.Peers[0].Transport != overlay.TransportVXLAN {
		t.Errorf("a peer that says nothing has %q", s.Peers[0].Transport)
	}
	in.Nodes[1].Direct = true
	s := Compile(in).Overlay
	if s.Peers[0].Transport != overlay.TransportDirect || s.Networks[0].Transport != overlay.TransportVXLAN || s.Networks[1].Transport != overlay.TransportDefault {
		t.Errorf("peer %q, mesh network %q, another %q", s.Peers[0].Transport, s.Networks[0].Transport, s.Networks[1].Transport)
	}
}

func TestBalancersGetServingBackendsOnly(t *testing.T) {
	got := Compile(fixture()).IPVS
	want := []ipvs.Service{
		{
			Key: ipvs.Key{VNI: 4096, Port: 8080, Protocol: ipvs.TCP}, Name: "web",
			Backends: []ipvs.Backend{{Addr: addr("10.255.0.11"), Port: 80, Local: true}, {Addr: addr("10.255.0.12"), Port: 80}},
			Ejection: usualEjection(),
		},
		{
			Key: ipvs.Key{VNI: 4097, VIP: addr("10.0.1.2")}, Name: "web",
			Backends: []ipvs.Backend{{Addr: addr("10.0.1.11"), Local: true}, {Addr: addr("10.0.1.12")}},
			Ejection: usualEjection(),
		},
	}
	if !reflect.DeepEqual(got.Services, want) || got.MeshVNI != 4096 {
		t.Fatalf("services = %+v (mesh %d), want %+v", got.Services, got.MeshVNI, want)
	}
}

func TestDownNodeIsMaskedEverywhere(t *testing.T) {
	in := fixture()
	in.Nodes[1].Down = true
	out := Compile(in)
	for _, s := range out.IPVS.Services {
		if len(s.Backends) != 1 {
			t.Errorf("service %+v has backends %v, want the one on this node", s.Key, s.Backends)
		}
	}
	if got := out.DNS.Zones["n1"].Names["tasks.web"].Addrs; len(got) != 1 {
		t.Errorf("tasks.web = %v, want the task on this node", got)
	}
}

// What gossip says masks names as what the managers say does, but connections
// may go on; and nobody is dead to itself.
func TestDeadNodeIsMasked(t *testing.T) {
	down, dead := fixture(), fixture()
	down.Nodes[1].Down = true
	dead.Dead = map[string]bool{"a": true, "b": true, "unknown": true}
	want, got := Compile(down), Compile(dead)
	if !reflect.DeepEqual(got.DNS, want.DNS) {
		t.Errorf("names with b dead:\n%+v\nwith b down:\n%+v", got.DNS, want.DNS)
	}
	if alive := Compile(fixture()); !reflect.DeepEqual(got.Overlay, alive.Overlay) {
		t.Errorf("routes to a dead node go: %+v, want %+v", got.Overlay, alive.Overlay)
	}
	for i, s := range got.IPVS.Services {
		kept := slices.DeleteFunc(slices.Clone(s.Backends), func(b ipvs.Backend) bool { return b.Away && b.Draining })
		if len(kept) != 1 || len(s.Backends) != 2 || !reflect.DeepEqual(kept, want.IPVS.Services[i].Backends) {
			t.Errorf("backends of %v are %+v, want that of node b away", s.Key, s.Backends)
		}
	}
	if dead.Nodes[1].Down {
		t.Error("the input was modified")
	}
}

func TestDrainingKeepsItsConnectionsOnly(t *testing.T) {
	in := fixture()
	in.Networks[1].Endpoints[0].State = protocol.EndpointDraining
	out := Compile(in)
	if b := out.IPVS.Services[1].Backends[0]; !b.Draining {
		t.Errorf("backend %v is not draining", b)
	}
	if got := out.DNS.Zones["n1"].Names["tasks.web"].Addrs; len(got) != 1 || got[0] != addr("10.0.1.12") {
		t.Errorf("tasks.web = %v, want the serving task only", got)
	}
}

func TestNames(t *testing.T) {
	out := Compile(fixture()).DNS
	z := out.Zones["n1"]
	for name, want := range map[string]string{
		"web": "10.0.1.2", "www": "10.0.1.2", "web.1.t1": "10.0.1.11", "web.3.t3": "10.0.1.13",
	} {
		if got := z.Names[name].Addrs; len(got) != 1 || got[0] != addr(want) {
			t.Errorf("%s = %v, want %s", name, got, want)
		}
	}
	if got := z.Names["tasks.web"].Addrs; len(got) != 2 {
		t.Errorf("tasks.web = %v, want the two serving tasks", got)
	}
	if got := z.Reverse[addr("10.0.1.2")]; got != "web.Front" {
		t.Errorf("reverse of the VIP = %q", got)
	}
	c, ok := out.Clients[addr("10.255.0.11")]
	if !ok || !reflect.DeepEqual(c.Zones, []string{"n1"}) {
		t.Fatalf("client = %+v %v, want zone n1", c, ok)
	}
	if got := c.Names["web.1.t1"]; len(got) != 1 || got[0] != addr("10.0.1.11") {
		t.Errorf("own name = %v", got)
	}
	if len(out.Zones) != 1 {
		t.Errorf("the mesh network has a zone: %v", out.Zones)
	}
}

func TestHostPortsAnswerOnTheTasksNodeOnly(t *testing.T) {
	in := fixture()
	ports := []swarm.PortConfig{{PublishedPort: 9090, TargetPort: 90, Protocol: "udp", PublishMode: swarm.PortConfigPublishModeHost}}
	in.Networks[0].Services[0].Ports = nil
	in.Tasks[0].Endpoint = &swarm.EndpointSpec{Ports: ports}
	want := ipvs.Service{
		Key: ipvs.Key{VNI: 4096, Port: 9090, Protocol: ipvs.UDP}, Name: "web",
		Backends: []ipvs.Backend{{Addr: addr("10.255.0.11"), Port: 90, Local: true}},
	}
	if got := Compile(in).IPVS.Services; len(got) != 2 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("on the task's node: %+v, want first %+v", got, want)
	}
	in.Networks[0].Services[0].Ports = []swarm.PortConfig{{PublishedPort: 9090, TargetPort: 1, Protocol: "udp"}}
	if got := Compile(in).IPVS.Services; len(got) != 2 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("with an ingress port of the same number: %+v, want the task's alone", got)
	}
	in.Networks[0].Services[0].Ports = nil
	in.Networks[0].Endpoints[0].State = protocol.EndpointStarting
	if got := Compile(in).IPVS.Services[0].Backends; len(got) != 0 {
		t.Errorf("a starting task gets connections: %+v", got)
	}
	in.Tasks = nil
	if got := Compile(in).IPVS.Services; len(got) != 1 {
		t.Errorf("on another node: %+v, want the VIP only", got)
	}
}
