package meshd

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshd/meshd/overlay"
)

func TestResolveAddress(t *testing.T) {
	addr := netip.MustParseAddr
	one := []hostInterface{{Name: "eth0", Addrs: []netip.Addr{addr("192.0.2.7"), addr("2001:db8::7")}}}
	two := append([]hostInterface{{Name: "eth1", Addrs: []netip.Addr{addr("198.51.100.1"), addr("198.51.100.2")}}}, one...)
	for _, tc := range []struct {
		name, given string
		ifs         []hostInterface
		want, err   string
	}{
		{name: "address", given: "192.0.2.7", want: "192.0.2.7:2377"},
		{name: "address and port", given: "192.0.2.7:4000", want: "192.0.2.7:4000"},
		{name: "IPv6", given: "2001:db8::7", want: "[2001:db8::7]:2377"},
		{name: "IPv6 and port", given: "[2001:db8::7]:4000", want: "[2001:db8::7]:4000"},
		{name: "interface", given: "eth0", ifs: two, want: "192.0.2.7:2377"},
		{name: "interface and port", given: "eth0:99", ifs: one, want: "192.0.2.7:99"},
		{name: "the only address", ifs: one, want: "192.0.2.7:2377"},
		{name: "many addresses", ifs: two, err: "could not choose an IP address to advertise"},
		{name: "many on the interface", given: "eth1", ifs: two, err: "could not choose an IP address to advertise since interface eth1"},
		{name: "no address", err: "could not find the system's IP address"},
		{name: "no such interface", given: "eth9", ifs: one, err: "neither an IP address nor an interface"},
		{name: "bad port", given: "192.0.2.7:0", err: "invalid port"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := resolveAddress(tc.given, DefaultControlPort, tc.ifs)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error = %v, want it to say %q", err, tc.err)
				}
				return
			}
			if err != nil || got.String() != tc.want {
				t.Fatalf("got %v, %v; want %s", got, err, tc.want)
			}
		})
	}
}

func TestMeshSubnetAvoidsTheMachinesOwn(t *testing.T) {
	taken := []netip.Prefix{netip.MustParsePrefix("10.255.255.53/32"), netip.MustParsePrefix("10.254.0.0/15")}
	if got, err := firstFree(meshSubnets, taken); err != nil || got.String() != "10.253.0.0/16" {
		t.Errorf("got %v, %v; want 10.253.0.0/16", got, err)
	}
	if got, err := firstFree(meshSubnets, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); err == nil {
		t.Errorf("got %v from a machine that uses all of 10.0.0.0/8", got)
	}
	pool := []netip.Prefix{netip.MustParsePrefix("10.255.0.0/16")}
	if got, err := freeMeshSubnet(netip.Prefix{}, pool); err != nil || got.Overlaps(pool[0]) {
		t.Errorf("got %v, %v of the pool that the user named for networks", got, err)
	}
	if got, err := freeMeshSubnet(netip.Prefix{}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); err != nil || !got.IsValid() {
		t.Errorf("got %v, %v where the pool covers all candidates", got, err)
	}
}

func TestChosenMeshSubnet(t *testing.T) {
	for text, valid := range map[string]bool{
		"10.240.0.0/12": true, "10.0.0.0/8": true, "10.9.9.0/24": true,
		"10.9.9.1/24": false, "10.9.9.0/25": false, "0.0.0.0/7": false, "fd00::/16": false,
	} {
		if err := checkMeshSubnet(netip.MustParsePrefix(text)); (err == nil) != valid {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := checkMeshSubnet(netip.Prefix{}); err != nil {
		t.Errorf("none: %v", err)
	}
	chosen := netip.MustParsePrefix("203.0.113.0/24")
	if got, err := freeMeshSubnet(chosen, nil); err != nil || got != chosen {
		t.Errorf("%v, %v", got, err)
	}
	routes, err := overlay.HostRoutes()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if _, err := freeMeshSubnet(r.Prefix, nil); !r.Wide() && (err == nil || !strings.Contains(err.Error(), "overlaps a route of this host: ")) {
			t.Errorf("on route %s: %v", r, err)
		}
	}
}
