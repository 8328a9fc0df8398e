package overlay

import (
	"net/netip"
	"testing"
)

func TestReachPackets(t *testing.T) {
	for _, from := range []string{"192.0.2.1", "2001:db8::1"} {
		self := netip.MustParseAddr(from)
		for _, full := range []bool{false, true} {
			p := reachPacket(self, 1500, full)
			got, size, isFull, ok := parseReach(p[vxlanHeader:])
			if !ok || got != self || size != 1500 || isFull != full {
				t.Errorf("%s %v: %v %d %v %v", from, full, got, size, isFull, ok)
			}
			if want := 1500 - overhead(self) + vxlanHeader + etherHeader; full && len(p) != want {
				t.Errorf("%s: a full packet carries %d bytes, want %d", from, len(p), want)
			}
		}
	}
	for _, bad := range [][]byte{nil, make([]byte, 14), make([]byte, 60), append(make([]byte, etherHeader), reachMagic...)} {
		if _, _, _, ok := parseReach(bad); ok {
			t.Errorf("%q was read", bad)
		}
	}
}
