package runner

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
)

func TestAttachedOf(t *testing.T) {
	ours := func(addr string) *network.EndpointSettings {
		return &network.EndpointSettings{
			Aliases: []string{"a", "0123456789ab"}, DriverOpts: map[string]string{optTask: "task1"},
			IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr(addr)},
		}
	}
	c := container.InspectResponse{
		ID: "0123456789abcdef", Name: "/c", State: &container.State{Running: true},
		HostConfig: &container.HostConfig{PortBindings: network.PortMap{
			network.MustParsePort("80/tcp"): {{HostPort: "8080"}, {HostPort: ""}}, network.MustParsePort("53/udp"): {{HostPort: "53"}},
		}},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{"ingress": ours("10.255.0.9"), "front": ours("10.0.0.9")}},
	}
	networks := map[string]string{"ingress": "z", "front": "f", "other": "o"}
	on := func(id, name, addr string) protocol.AttachedTo {
		return protocol.AttachedTo{ID: id, Name: name, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, Aliases: []string{"a"}}
	}
	want := protocol.Attached{
		TaskID: "task1", ContainerID: c.ID, Name: "c", Running: true,
		Networks: []protocol.AttachedTo{on("f", "front", "10.0.0.9/32"), on("z", "ingress", "10.255.0.9/32")},
		Ports: []swarm.PortConfig{
			{Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "host"},
			{Protocol: "udp", TargetPort: 53, PublishedPort: 53, PublishMode: "host"},
		},
	}
	compare := func(what string) {
		t.Helper()
		got, ok := attachedOf(c, networks)
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" || !ok {
			t.Errorf("%s (-want +got)\n%s", what, diff)
		}
	}
	compare("on ours")
	c.NetworkSettings.Networks["bridge"] = &network.EndpointSettings{}
	want.Ports = nil // the engine's to publish
	compare("on the default bridge, too")
	c.NetworkSettings.Networks["app_default"] = &network.EndpointSettings{}
	want.Beside = true
	compare("on a network with names, too")
	for name := range networks {
		delete(c.NetworkSettings.Networks, name)
	}
	if got, ok := attachedOf(c, networks); ok {
		t.Errorf("on none of ours: %+v", got)
	}
}

func TestResolvConfBeside(t *testing.T) {
	const ours = "nameserver 10.255.0.1\nsearch example.org\noptions ndots:0\n"
	if got := resolvConfBeside(ours, false); got != ours {
		t.Errorf("alone: %q", got)
	}
	if got := resolvConfBeside(ours, true); got != "nameserver 10.255.0.1\nnameserver 127.0.0.11\nsearch example.org\noptions ndots:0\n" {
		t.Errorf("beside: %q", got)
	}
}
