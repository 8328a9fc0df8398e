package overlay

import (
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/meshd/meshd/overlay/link"
)

func TestMTUIsWhatFitsToEveryPeer(t *testing.T) {
	v4, far, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")
	paths := map[netip.Addr]link.Path{v4: {MTU: 9000}, far: {MTU: 1420}, v6: {MTU: 1500}}
	for what, c := range map[string]struct {
		local netip.Addr
		peers []netip.Addr
		paths map[netip.Addr]link.Path
		want  int
	}{
		"nobody":              {local: v4, want: 1450},
		"nobody, on IPv6":     {local: v6, want: 1430},
		"one":                 {local: v4, peers: []netip.Addr{v4}, paths: paths, want: 8950},
		"the narrowest":       {local: v4, peers: []netip.Addr{v4, far}, paths: paths, want: 1370},
		"over IPv6":           {local: v6, peers: []netip.Addr{v6}, paths: paths, want: 1430},
		"unreachable":         {local: v4, peers: []netip.Addr{v4}, want: 1450},
		"one without a route": {local: v4, peers: []netip.Addr{v4, far}, paths: map[netip.Addr]link.Path{v4: {MTU: 9000}}, want: 8950},
		"narrower than any":   {local: v4, peers: []netip.Addr{v4}, paths: map[netip.Addr]link.Path{v4: {MTU: 68}}, want: leastMTU},
	} {
		s := State{Local: c.local}
		for _, p := range c.peers {
			s.Peers = append(s.Peers, Peer{Addr: p})
		}
		if got := innerMTU(s, facts{mtu: 1500, paths: c.paths}, Network{}); got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
	six := Attachment{Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.1.2/24"), netip.MustParsePrefix("fd00::2/64")}}
	if got := attachmentMTU(State{Local: v4}, facts{mtu: 1280}, six); got != leastMTU6 {
		t.Errorf("with IPv6 inside on a narrow underlay: %d", got)
	}
}

func TestTunnelLimit(t *testing.T) {
	v4, v6 := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")
	f := facts{mtu: 1500, paths: map[netip.Addr]link.Path{v4: {MTU: 1400}, v6: {MTU: 1300}}}
	for want, peers := range map[int][]Peer{0: nil, 1230: {{Addr: v4}, {Addr: v6}}} {
		if got := tunnelLimit(State{Local: v6, Peers: peers}, f); got != want {
			t.Errorf("to %v: %d, want %d", peers, got, want)
		}
	}
	if got := tunnelLimit(State{Local: v4, Peers: []Peer{{Addr: v4}}}, f); got != 0 {
		t.Errorf("IPv4 fragments, but there is a limit of %d", got)
	}
}

// underlayMTU sets that of every device between the nodes.
func (l *lab) underlayMTU(mtu int) {
	l.t.Helper()
	size := strconv.Itoa(mtu)
	for _, dev := range regexp.MustCompile(`p\d+`).FindAllString(l.ip(l.hub, "-br", "link", "show", "master", "br0"), -1) {
		l.ip(l.hub, "link", "set", dev, "mtu", size)
	}
	l.ip(l.hub, "link", "set", "br0", "mtu", size)
	for _, n := range l.nodes {
		l.ip(n.ns, "link", "set", "eth0", "mtu", size)
	}
	l.ip(l.world, "link", "set", "eth0", "mtu", size)
}

// process runs something in the container's namespace until the test ends.
func (c *container) process() *container {
	c.lab.t.Helper()
	cmd := exec.Command("sleep", "1000")
	c.lab.within(c.ns, cmd.Start)
	c.lab.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return c
}

func (c *container) hasMTU(mtu int) bool {
	return strings.Contains(c.lab.ip(c.ns, "link", "show", "eth0"), fmt.Sprintf(" mtu %d ", mtu))
}

const transfer = 10 << 20

func TestEveryUnderlayCarriesLargeTransfers(t *testing.T) {
	onEachDriver(t, testEveryUnderlayCarriesLargeTransfers)
}

func testEveryUnderlayCarriesLargeTransfers(t *testing.T, d Driver, env ...string) {
	l := newLab(t, 2, env...)
	a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2")
	b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3")
	l.settle(a, b)
	l.echo(a.ns)
	l.echo(b.ns)
	// An old connection has to follow the changes too.
	old, err := dial(a.ns, "tcp4", "10.0.1.3:7", patience)
	l.check(err)
	defer old.Close()
	var seen string
	_, err = fmt.Fscanln(old, &seen)
	l.check(err)
	for _, mtu := range []int{9000, 1420, 1280, 1500} {
		l.underlayMTU(mtu)
		for _, c := range []*container{a, b} {
			l.eventually(fmt.Sprintf("the containers follow to %d", mtu), func() bool { return c.hasMTU(mtu - 50) })
		}
		for _, way := range []struct{ from, to string }{{a.ns, "10.0.1.3"}, {b.ns, "10.0.1.2"}} {
			if _, err := tcp(way.from, way.to, transfer); err != nil {
				t.Errorf("underlay %d: to %s: %v", mtu, way.to, err)
			}
			if err := ping(way.from, way.to, mtu-50-28, patience); err != nil {
				t.Errorf("underlay %d: full packet to %s: %v", mtu, way.to, err)
			}
		}
		if err := exchange(old, 1<<20); err != nil {
			t.Errorf("underlay %d: old connection: %v", mtu, err)
		}
	}
	late := l.nodes[0].container().join(userNetwork(1), "10.0.1.4")
	if !late.hasMTU(1450) {
		t.Error(l.ip(late.ns, "link"))
	}
}

func TestARoutesMTUCounts(t *testing.T) { onEachDriver(t, testARoutesMTUCounts) }

func testARoutesMTUCounts(t *testing.T, d Driver, env ...string) {
	l := newLab(t, 2, env...)
	a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2")
	l.settle(a)
	l.ip(l.nodes[0].ns, "route", "add", l.nodes[1].addr.String(), "dev", "eth0", "mtu", "1400")
	l.eventually("the route's MTU is followed", func() bool { return a.hasMTU(1350) })
	l.ip(l.nodes[0].ns, "route", "del", l.nodes[1].addr.String())
	l.eventually("and its end", func() bool { return a.hasMTU(1450) })
}
