package kernel

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshd/meshd/ipvs"
)

func TestServicesAreTranslated(t *testing.T) {
	for _, c := range []struct {
		algorithm ipvs.Algorithm
		affinity  time.Duration
		want      service
	}{
		{ipvs.Random2, 0, service{scheduler: "wrr"}},
		{ipvs.RoundRobin, 0, service{scheduler: "wrr"}},
		{ipvs.LeastConn, 0, service{scheduler: "wlc"}},
		{ipvs.Maglev, 0, service{scheduler: "mh", flags: flagMaglevFallback | flagMaglevPort}},
		{ipvs.Maglev, time.Minute, service{scheduler: "mh", flags: flagMaglevFallback}},
		{ipvs.LeastConn, time.Minute, service{scheduler: "wlc", flags: flagPersistent, timeout: 60}},
	} {
		if got := translate(ipvs.Service{Algorithm: c.algorithm, Affinity: c.affinity}, false); !got.sameOptions(c.want) {
			t.Errorf("%s, %v: %+v, want %+v", c.algorithm, c.affinity, got, c.want)
		}
	}
}

func TestWeights(t *testing.T) {
	a, b, c, d := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.3"), netip.MustParseAddr("10.1.0.4"), netip.MustParseAddr("10.1.0.5")
	s := ipvs.Service{Backends: []ipvs.Backend{
		{Addr: a, Weight: 3}, {Addr: b, Weight: 1, Draining: true}, {Addr: c, Weight: 2, Ejected: true}, {Addr: d, Weight: 1, Draining: true, Away: true},
	}}
	for udp, want := range map[bool]map[netip.Addr]int{false: {a: 3, b: 0, c: 0, d: 0}, true: {a: 3, b: 0, c: 0}} {
		if got := translate(s, udp).weights; !maps.Equal(got, want) {
			t.Errorf("UDP %t: %v, want %v", udp, got, want)
		}
	}
}

// Many containers with one connection each must not all choose the same backend.
func TestContainersBeginWithOtherBackends(t *testing.T) {
	var backends []netip.Addr
	for i := range byte(4) {
		backends = append(backends, netip.AddrFrom4([4]byte{10, 1, 0, 2 + i}))
	}
	first := map[netip.Addr]int{}
	for i := range byte(200) {
		c := ipvs.Client{Addrs: []ipvs.ClientAddr{{VNI: 1, Addr: netip.AddrFrom4([4]byte{10, 1, 1, i})}}}
		o := order(backends, c)
		if len(o) != len(backends) || !slices.Equal(o, order(o, c)) {
			t.Fatalf("%v: not an order of %v", o, backends)
		}
		first[o[0]]++
	}
	for _, b := range backends {
		if first[b] < 20 {
			t.Errorf("%s is first for %d of 200 containers", b, first[b])
		}
	}
}
