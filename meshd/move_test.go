package meshd

import (
	"net/netip"
	"testing"
)

func TestAddressesAreFollowed(t *testing.T) {
	on := func(name string, addrs ...string) hostInterface {
		h := hostInterface{Name: name}
		for _, a := range addrs {
			h.Addrs = append(h.Addrs, netip.MustParseAddr(a))
		}
		return h
	}
	before := membership{
		ListenAddr: "0.0.0.0:2377", AdvertiseAddr: netip.MustParseAddrPort("192.0.2.1:2377"), DataAddr: netip.MustParseAddr("192.0.2.1"),
	}.settleOn([]hostInterface{on("eth0", "192.0.2.1"), on("eth1", "198.51.100.1")})
	if before.AdvertiseDevice != "eth0" || before.DataDevice != "eth0" {
		t.Fatalf("devices of %+v", before)
	}
	listening, abroad, apart := before, before, before
	listening.ListenAddr = "192.0.2.1:2377"
	abroad.AdvertiseAddr, abroad.AdvertiseDevice = netip.MustParseAddrPort("203.0.113.1:2377"), ""
	apart.DataAddr, apart.DataDevice = netip.MustParseAddr("198.51.100.1"), "eth1"
	for name, c := range map[string]struct {
		from                    membership
		now                     []hostInterface
		advertise, data, listen string
	}{
		"nothing changed":   {before, []hostInterface{on("eth0", "192.0.2.1")}, "192.0.2.1:2377", "192.0.2.1", "0.0.0.0:2377"},
		"one more":          {before, []hostInterface{on("eth0", "192.0.2.7", "192.0.2.1")}, "192.0.2.1:2377", "192.0.2.1", "0.0.0.0:2377"},
		"to another device": {before, []hostInterface{on("bond0", "192.0.2.1"), on("eth0", "192.0.2.9")}, "192.0.2.1:2377", "192.0.2.1", "0.0.0.0:2377"},
		"a new lease":       {before, []hostInterface{on("eth1", "198.51.100.1"), on("eth0", "2001:db8::1", "192.0.2.2")}, "192.0.2.2:2377", "192.0.2.2", "0.0.0.0:2377"},
		"none yet":          {before, []hostInterface{on("eth1", "198.51.100.1"), on("eth0", "2001:db8::1")}, "192.0.2.1:2377", "192.0.2.1", "0.0.0.0:2377"},
		"it listens there":  {listening, []hostInterface{on("eth0", "192.0.2.2")}, "192.0.2.2:2377", "192.0.2.2", "192.0.2.2:2377"},
		"behind a router":   {abroad, []hostInterface{on("eth0", "192.0.2.2")}, "203.0.113.1:2377", "192.0.2.2", "0.0.0.0:2377"},
		"data moved":        {apart, []hostInterface{on("eth0", "192.0.2.1"), on("eth1", "198.51.100.2")}, "192.0.2.1:2377", "198.51.100.2", "0.0.0.0:2377"},
	} {
		got, moved := c.from.moved(c.now)
		if got.AdvertiseAddr.String() != c.advertise || got.DataAddr.String() != c.data || got.ListenAddr != c.listen {
			t.Errorf("%s: %+v, want %s, %s and %s", name, got, c.advertise, c.data, c.listen)
		}
		if want := got.AdvertiseAddr != c.from.AdvertiseAddr || got.DataAddr != c.from.DataAddr; moved != want {
			t.Errorf("%s: moved is %v", name, moved)
		}
	}
}
