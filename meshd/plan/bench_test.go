package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// large is a node's view of 1,000 services of 10 tasks each on one network, of
// which 100 publish a port, on 50 nodes.
func large() Input {
	in := Input{Self: "node0", SelfAddr: addr("198.18.0.1"), DataPathPort: 4789}
	for i := range 50 {
		in.Nodes = append(in.Nodes, protocol.Node{
			ID: fmt.Sprint("node", i), Hostname: fmt.Sprint("host", i), DataAddr: netip.AddrFrom4([4]byte{198, 18, 0, byte(i + 1)}),
		})
	}
	mesh := protocol.Network{ID: "mesh", Name: "ingress", VNI: 4096, Ingress: true, Subnets: []protocol.Subnet{
		{Prefix: netip.MustParsePrefix("10.255.0.0/16"), Gateway: addr("10.255.0.1")},
	}}
	user := protocol.Network{ID: "user", Name: "front", VNI: 4097, Subnets: []protocol.Subnet{
		{Prefix: netip.MustParsePrefix("10.0.0.0/16"), Gateway: addr("10.0.0.1")},
	}}
	for s := range 1000 {
		id := fmt.Sprintf("service%04d", s)
		svc := protocol.Service{ID: id, Name: "web" + id, VIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(s / 200), byte(2 + s%200)})}}
		if s < 100 {
			svc.Exposed = []swarm.PortConfig{{Protocol: "tcp", TargetPort: 80, PublishedPort: uint32(30000 + s)}}
			mesh.Services = append(mesh.Services, protocol.Service{ID: id, Name: svc.Name, Ports: svc.Exposed})
		}
		user.Services = append(user.Services, svc)
		for slot := range 10 {
			n := s*10 + slot
			e := protocol.Endpoint{
				TaskID: fmt.Sprintf("task%05d", n), ServiceID: id, NodeID: fmt.Sprint("node", n%50), Slot: slot + 1,
				Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(10 + n/200), byte(n % 200)})}, State: protocol.EndpointServing,
			}
			e.Name = fmt.Sprintf("%s.%d.%s", svc.Name, e.Slot, e.TaskID)
			e.ContainerID = fmt.Sprintf("%064d", n)
			user.Endpoints = append(user.Endpoints, e)
			if s < 100 {
				e.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, 255, byte(10 + n/200), byte(n % 200)})}
				mesh.Endpoints = append(mesh.Endpoints, e)
			}
		}
	}
	in.Networks = []protocol.Network{mesh, user}
	return in
}

// BenchmarkChange is what a node does when one task of 10,000 starts or stops, on
// its way to the kernel: compiling, and the resolver's tables.
func BenchmarkChange(b *testing.B) {
	in := large()
	changed := func(i int) Input {
		n := in.Networks[1]
		n.Endpoints = slices.Clone(n.Endpoints)
		n.Endpoints[5000].State = []protocol.EndpointState{protocol.EndpointDraining, protocol.EndpointServing}[i%2]
		out := in
		out.Networks = []protocol.Network{in.Networks[0], n}
		return out
	}
	b.Run("all anew", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			Compile(changed(i))
		}
	})
	b.Run("compile", func(b *testing.B) {
		var c Compiler
		c.Compile(in)
		for i := 0; b.Loop(); i++ {
			c.Compile(changed(i))
		}
	})
	b.Run("nothing", func(b *testing.B) {
		var c Compiler
		for b.Loop() {
			c.Compile(in)
		}
	})
	b.Run("resolver", func(b *testing.B) {
		s := dns.New(dns.Config{})
		var c Compiler
		a, z := Compile(changed(0)).DNS, c.Compile(changed(1)).DNS
		for b.Loop() {
			s.Set(a)
			s.Set(z)
		}
	})
	b.Run("balancer", func(b *testing.B) {
		have, err := ipvs.Normalize(Compile(changed(0)).IPVS)
		if err != nil {
			b.Fatal(err)
		}
		want := Compile(changed(1)).IPVS
		for b.Loop() {
			n, err := ipvs.Normalize(want)
			if p := ipvs.Diff(have, n); err != nil || len(p.Put) != 1 {
				b.Fatal(err, p)
			}
		}
	})
}
