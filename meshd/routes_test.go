package meshd

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

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

// Each is told once, whether it is found when the node joins or later.
func TestOverlapsAreTold(t *testing.T) {
	var log bytes.Buffer
	var routes []overlay.HostRoute
	d := &dataplane{routes: func() ([]overlay.HostRoute, error) { return routes, nil }, log: slog.New(slog.NewTextHandler(&log, nil))}
	networks := []protocol.Network{
		{Name: "front", Subnets: []protocol.Subnet{{Prefix: netip.MustParsePrefix("10.9.0.0/16")}}},
		{Name: "back", Subnets: []protocol.Subnet{{Prefix: netip.MustParsePrefix("10.7.0.0/16")}}},
	}
	told := func() int {
		return strings.Count(log.String(), "network back (10.7.0.0/16) overlaps a route of this node: 10.7.3.0/24 dev eth7")
	}
	now := time.Now()
	d.noteOverlaps(networks, now)
	routes = []overlay.HostRoute{{Prefix: netip.MustParsePrefix("10.7.3.0/24"), Device: "eth7"}}
	d.noteOverlaps(networks, now.Add(lookAround/2))
	if told() != 0 {
		t.Errorf("looked again at once:\n%s", log.String())
	}
	d.noteOverlaps(networks, now.Add(lookAround))
	d.noteOverlaps(networks, now.Add(2*lookAround))
	d.warnOfRoutes(networks)
	if told() != 1 || strings.Contains(log.String(), "front") {
		t.Errorf("the log:\n%s", log.String())
	}
}
