package meshd

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
)

func TestOverlap(t *testing.T) {
	d := &dataplane{routes: func() ([]overlay.HostRoute, error) {
		return []overlay.HostRoute{{Prefix: netip.MustParsePrefix("10.7.3.0/24"), Device: "eth7"}}, nil
	}}
	n := protocol.Network{Name: "front", Subnets: []protocol.Subnet{
		{Prefix: netip.MustParsePrefix("10.9.0.0/16")}, {Prefix: netip.MustParsePrefix("fd00::/64")},
	}}
	if err := d.Overlap(n); err != nil {
		t.Error(err)
	}
	n.Subnets = append(n.Subnets, protocol.Subnet{Prefix: netip.MustParsePrefix("10.7.0.0/16")})
	const want = "network front (10.7.0.0/16) overlaps a route of this node: 10.7.3.0/24 dev eth7"
	if err := d.Overlap(n); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	broken := errors.New("no netlink")
	d.routes = func() ([]overlay.HostRoute, error) { return nil, broken }
	if err := d.Overlap(n); !errors.Is(err, broken) {
		t.Error(err)
	}
}
