package ipvs_test

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshd/meshd/ipvs"
)

func webState(backends ...string) ipvs.State {
	s := ipvs.Service{Key: ipvs.Key{VNI: 4097, VIP: netip.MustParseAddr("10.1.0.100")}, Name: "web"}
	for _, b := range backends {
		s.Backends = append(s.Backends, ipvs.Backend{Addr: netip.MustParseAddr(b)})
	}
	return ipvs.State{MeshVNI: 4096, Services: []ipvs.Service{s}}
}

func TestKeeperCountsRepairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, k := keep(t)
		if err := k.Set(webState("10.1.0.2")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if r := k.Repairs(); len(r) != 0 {
			t.Fatalf("repairs of what nobody changed: %v", r)
		}
		// Somebody else changes what the kernel holds.
		if err := f.Set(webState("10.1.0.66")); err != nil {
			t.Fatal(err)
		}
		d, err := k.Differences(webState("10.1.0.2"))
		if err != nil || len(d) != 1 || d[0].Want != "10.1.0.2" || d[0].Have != "10.1.0.66" || !strings.Contains(d[0].What, "web") {
			t.Errorf("%+v, %v", d, err)
		}
		time.Sleep(3 * time.Second)
		if r := k.Repairs(); r["service"] != 1 || len(r) != 1 {
			t.Errorf("repairs: %v", r)
		}
		if d, err := k.Differences(webState("10.1.0.2")); err != nil || len(d) != 0 {
			t.Errorf("%+v, %v", d, err)
		}
	})
}

func TestDifferencesNameEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, k := keep(t)
		have := webState("10.1.0.2")
		have.Clients = []ipvs.Client{{Addrs: []ipvs.ClientAddr{{VNI: 4097, Addr: netip.MustParseAddr("10.1.0.8")}}}}
		have.NodeAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		have.Services = append(have.Services, ipvs.Service{Key: ipvs.Key{VNI: 4096, Port: 80, Protocol: ipvs.TCP}})
		if err := f.Set(have); err != nil {
			t.Fatal(err)
		}
		want := webState()
		want.Clients = []ipvs.Client{{Addrs: []ipvs.ClientAddr{{VNI: 4097, Addr: netip.MustParseAddr("10.1.0.9")}}}}
		want.NodeAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.2")}
		d, err := k.Differences(want)
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for _, x := range d {
			kinds[x.Kind]++
		}
		if kinds["service"] != 2 || kinds["node-address"] != 2 || kinds["mesh"] != 1 || kinds["container"] != 2 {
			t.Errorf("%+v", d)
		}
	})
}
