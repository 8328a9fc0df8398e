package overlay

import (
	"net/netip"
	"testing"
)

func TestHostRoute(t *testing.T) {
	for _, tc := range []struct {
		prefix, device, gateway, text string
		wide                          bool
	}{
		{"10.7.0.0/16", "eth7", "192.0.2.1", "10.7.0.0/16 via 192.0.2.1 dev eth7", false},
		{"10.7.0.0/16", "eth7", "", "10.7.0.0/16 dev eth7", false},
		{"10.0.0.0/8", "", "", "10.0.0.0/8", true},
		{"128.0.0.0/1", "tun0", "", "128.0.0.0/1 dev tun0", true},
		{"10.0.0.0/9", "tun0", "", "10.0.0.0/9 dev tun0", false},
		{"fd00::/8", "tun0", "", "fd00::/8 dev tun0", true},
		{"fd00:1::/32", "tun0", "fe80::1", "fd00:1::/32 via fe80::1 dev tun0", false},
	} {
		r := HostRoute{Prefix: netip.MustParsePrefix(tc.prefix), Device: tc.device}
		if tc.gateway != "" {
			r.Gateway = netip.MustParseAddr(tc.gateway)
		}
		if r.String() != tc.text || r.Wide() != tc.wide {
			t.Errorf("%+v: %s, wide %v", tc, r, r.Wide())
		}
	}
}
