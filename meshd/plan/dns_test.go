package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// names is the fixture with all that gives names.
func names() Input {
	in := fixture()
	in.Nodes[0].Hostname, in.Nodes[1].Hostname = "Alpha", "beta"
	n := &in.Networks[1]
	n.Endpoints[0].ContainerID = "0123456789abcdef0123"
	n.Endpoints[0].Hostname = "web" // as its service: must not spoil the VIP's name
	n.Endpoints[1].Hostname = "Second"
	n.Services[0].Labels = map[string]string{"mesh.dns.ttl": "30", "mesh.port.metrics": "9090", "mesh.port.gossip": "7946/udp", "mesh.port.bad": "x"}
	n.Services[0].Exposed = []swarm.PortConfig{{Name: "HTTP", TargetPort: 80}, {TargetPort: 53, Protocol: "udp"}}
	n.Services = append(n.Services, protocol.Service{ID: "s2", Name: "db"})
	n.Endpoints = append(n.Endpoints,
		protocol.Endpoint{TaskID: "t4", ServiceID: "s2", NodeID: "b", Slot: 1, Name: "db.1.t4", Addrs: []netip.Addr{addr("10.0.1.14")}, State: protocol.EndpointDraining},
		protocol.Endpoint{TaskID: "t5", ServiceID: "s2", NodeID: "a", Slot: 1, Name: "db.1.t5", Addrs: []netip.Addr{addr("10.0.1.15")}, State: protocol.EndpointStarting},
	)
	return in
}

// addrsOf shows the last parts of a name's addresses.
func addrsOf(n dns.Name, known bool) string {
	if !known {
		return "unknown"
	}
	var out []string
	for _, a := range n.Addrs {
		out = append(out, strings.TrimPrefix(a.String(), "10.0.1."))
	}
	return strings.Join(out, " ")
}

func TestNamesOfTasks(t *testing.T) {
	z := Compile(names()).DNS.Zones["n1"]
	for name, want := range map[string]string{
		"web": "2", "www": "2", "tasks.web": "11 12", "all.web": "11 12 13", "all.www": "11 12 13",
		"1.web": "11", "2.www": "12", "3.web": "13", "4.web": "unknown",
		"alpha.web": "11", "beta.web": "12", "beta.www": "12",
		"0123456789ab": "11", "second": "12",
		"db": "", "tasks.db": "", "all.db": "15", "1.db": "15", "alpha.db": "15", "beta.db": "14",
		"db.1.t4": "14", "db.1.t5": "15",
	} {
		n, ok := z.Names[name]
		if got := addrsOf(n, ok); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]time.Duration{"web": 30 * time.Second, "1.www": 30 * time.Second, "_http._tcp.web": 30 * time.Second, "db": 0} {
		if got := z.Names[name].TTL; got != want {
			t.Errorf("TTL of %s = %v, want %v", name, got, want)
		}
	}
}

func TestServiceRecords(t *testing.T) {
	z := Compile(names()).DNS.Zones["n1"]
	for name, want := range map[string]string{
		"_http._tcp.web": "[{web.1.t1 80} {web.2.t2 80}]", "_80._tcp.www": "[{web.1.t1 80} {web.2.t2 80}]",
		"_53._udp.web": "[{web.1.t1 53} {web.2.t2 53}]", "_metrics._tcp.web": "[{web.1.t1 9090} {web.2.t2 9090}]",
		"_7946._udp.web": "[{web.1.t1 7946} {web.2.t2 7946}]", "_bad._tcp.web": "[]", "_http._tcp.db": "[]",
	} {
		if got := fmt.Sprint(z.Names[name].Targets); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
	for name, n := range z.Names {
		for _, target := range n.Targets {
			if len(z.Names[target.Name].Addrs) == 0 {
				t.Errorf("%s leads to %s, which has no address", name, target.Name)
			}
		}
	}
}

func TestTasksOfADownNodeHaveNoAddress(t *testing.T) {
	in := names()
	in.Nodes[1].Down = true
	z := Compile(in).DNS.Zones["n1"]
	for name, want := range map[string]string{
		"tasks.web": "11", "all.web": "11", "2.web": "", "beta.web": "", "second": "", "web.2.t2": "", "web.1.t1": "11", "1.db": "15",
	} {
		n, ok := z.Names[name]
		if got := addrsOf(n, ok); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
}

func TestLabelledTTL(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"0": dns.NotKept, "0s": dns.NotKept, "500ms": dns.NotKept, "1": time.Second, "2m": 2 * time.Minute,
		"100000000": maxTTL, "-1": 0, "": 0, "soon": 0,
	} {
		if got := labelledTTL(map[string]string{labelTTL: value}); got != want {
			t.Errorf("%q = %v, want %v", value, got, want)
		}
	}
}

func TestTasksAskTheirOwnServers(t *testing.T) {
	in := names()
	in.Upstreams = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}
	in.Tasks[0].Task.Spec.ContainerSpec = &swarm.ContainerSpec{DNSConfig: &swarm.DNSConfig{
		Nameservers: []netip.Addr{addr("192.0.2.53"), {}, addr("2001:db8::53")},
	}}
	got := Compile(in).DNS.Clients[addr("10.255.0.11")].Upstreams
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[2001:db8::53]:53")}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("upstreams = %v, want %v", got, want)
	}
}

// TestNetworksAddressesAreOurs: nobody else knows whose they are.
func TestNetworksAddressesAreOurs(t *testing.T) {
	in := fixture()
	var want []netip.Prefix
	for _, n := range in.Networks {
		for _, s := range n.Subnets {
			want = append(want, s.Prefix)
		}
	}
	if got := Compile(in).DNS.Ours; len(want) < 2 || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestSameInputSameNames(t *testing.T) {
	first := Compile(names()).DNS
	for range 20 {
		if again := Compile(names()).DNS; !reflect.DeepEqual(first, again) {
			t.Fatalf("%+v\nand then\n%+v", first, again)
		}
	}
}
