package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/orchestrator/protocol"
)

func TestPublishOnChosenAddresses(t *testing.T) {
	interfaces := []Interface{
		{Name: "eth0", Addrs: addrs("192.0.2.1", "2001:db8::1")}, {Name: "eth1", Addrs: addrs("10.9.0.1")}, {Name: "docker0", Addrs: addrs("172.17.0.1")},
	}
	for _, c := range []struct{ port, all, node, want string }{
		{"", "", "", "everywhere"},
		{"", "", "eth1", "10.9.0.1"},
		{"", "eth0", "eth1", "192.0.2.1"}, // no task has an IPv6 address
		{"10.0.0.0/8,docker0", "eth0", "eth1", "10.9.0.1 172.17.0.1"},
		{"127.0.0.1", "", "", "127.0.0.1"},
		{"::1", "", "", "127.0.0.1"},
		{"lo, eth1", "", "", "10.9.0.1 127.0.0.1"},
		{"0.0.0.0/0", "", "", "10.9.0.1 127.0.0.1 172.17.0.1 192.0.2.1"},
		{"eth7", "", "", ""},
		{"not/a/thing", "", "", ""},
	} {
		in := fixture()
		in.Interfaces, in.PublishOn = interfaces, c.node
		labels := map[string]string{"mesh.publish.9999": "eth7"}
		if c.port != "" {
			labels["mesh.publish.8080"] = c.port
		}
		if c.all != "" {
			labels["mesh.publish"] = c.all
		}
		in.Networks[0].Services[0].Labels = labels
		if got := publishedOn(Compile(in).IPVS); got != c.want {
			t.Errorf("%+v: on %q", c, got)
		}
	}
	in := fixture()
	in.Interfaces = interfaces
	in.Networks[0].Services[0].Labels = map[string]string{"mesh.publish": "eth0,lo"}
	in.Networks[0].Endpoints = append(in.Networks[0].Endpoints, protocol.Endpoint{
		TaskID: "t6", ServiceID: "s1", NodeID: "b", Addrs: addrs("fd00::6"), State: protocol.EndpointServing})
	if got := publishedOn(Compile(in).IPVS); got != "127.0.0.1 192.0.2.1 2001:db8::1 ::1" {
		t.Errorf("with a task that speaks IPv6: on %q", got)
	}
	in = fixture()
	in.Interfaces = interfaces
	in.Networks[0].Services[0].Ports = nil
	in.Tasks[0].Service.Labels = map[string]string{"mesh.publish": "eth1"}
	in.Tasks[0].Endpoint = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{PublishedPort: 8080, TargetPort: 90, PublishMode: swarm.PortConfigPublishModeHost}}}
	if got := publishedOn(Compile(in).IPVS); got != "10.9.0.1" {
		t.Errorf("in mode host: on %q", got)
	}
}

// What is kept from one compilation to the next follows the node's addresses.
func TestCompilerFollowsTheAddresses(t *testing.T) {
	in := fixture()
	in.Networks[0].Services[0].Labels = map[string]string{"mesh.publish": "eth0"}
	var c Compiler
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.1"} {
		in.Interfaces = []Interface{{Name: "eth0", Addrs: addrs(a)}}
		if got := publishedOn(c.Compile(in).IPVS); got != a {
			t.Errorf("published on %q, want %s", got, a)
		}
	}
	in.Networks[0].Services[0].Labels, in.PublishOn = nil, "lo"
	in.Networks[0].Services = slices.Clone(in.Networks[0].Services)
	if got := publishedOn(c.Compile(in).IPVS); got != "127.0.0.1" {
		t.Errorf("published on %q, want loopback", got)
	}
}

// publishedOn lists the addresses of the state's published ports.
func publishedOn(s ipvs.State) string {
	var out []string
	for _, svc := range s.Services {
		switch {
		case !svc.Published():
		case svc.Everywhere():
			out = append(out, "everywhere")
		default:
			out = append(out, svc.VIP.String())
		}
		for _, b := range svc.Backends {
			if svc.Published() && !svc.Everywhere() && b.Addr.Is4() != svc.VIP.Is4() {
				out = append(out, fmt.Sprintf("%s leads to %s", svc.VIP, b.Addr))
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestIngressLabel(t *testing.T) {
	for label, want := range map[string]string{"": "", "mesh": "", "prefer": "prefer", "local": "local", "dsr": "dsr", "odd": ""} {
		in := fixture()
		if label != "" {
			in.Networks[0].Services[0].Labels = map[string]string{"mesh.ingress": label}
			in.Networks[1].Services[0].Labels = in.Networks[0].Services[0].Labels
		}
		for _, s := range Compile(in).IPVS.Services {
			got := ""
			switch {
			case s.PreferLocal:
				got = "prefer"
			case s.LocalOnly:
				got = "local"
			case s.DirectReturn:
				got = "dsr"
			}
			if s.Published() && got != want || !s.Published() && got != "" {
				t.Errorf("label %q: %s leads by %q, want %q, and nothing for the VIP", label, s.Key, got, want)
			}
		}
	}
	in := fixture()
	in.Networks[0].Services[0].Labels = map[string]string{"mesh.lb.locality": "node", "mesh.ingress": "mesh"}
	if s := Compile(in).IPVS.Services[0]; s.PreferLocal {
		t.Error("mesh.ingress does not go before mesh.lb.locality")
	}
	in.Networks[0].Services[0].Labels["mesh.ingress"] = "dsr"
	if s := Compile(in).IPVS.Services[0]; !s.PreferLocal || !s.DirectReturn {
		t.Errorf("mesh.ingress=dsr says nothing of where to, and mesh.lb.locality does: %+v", s)
	}
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}
