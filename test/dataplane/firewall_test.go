package dataplane

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

// filter loads rules on a node, as its administrator does.
func (l *lab) filter(n *node, rules string) {
	l.t.Helper()
	l.sh("ip", "netns", "exec", n.ns, "nft", rules)
}

// refusedOrLost says that a call came to nothing: a REJECT tells, a DROP does not.
func refusedOrLost(err error) bool {
	var late net.Error
	return errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &late) && late.Timeout()
}

// The host's rules for its own ports hold for published ones, too: in whatever table,
// by whatever they go, and where denying is the policy. What passes shows the
// client's address as ever, and connections that stand go on.
func TestHostFirewallDecidesOnPublishedPorts(t *testing.T) {
	l := newLab(t)
	near, far := l.task(l.nodes[0]), l.task(l.nodes[1])
	l.settle()
	l.serve(near.ns, taskPort)
	l.serve(far.ns, taskPort)
	n := l.nodes[0]
	open, err := dial(l.client, "tcp4", "", n.published())
	l.check(err)
	defer open.Close()
	for _, c := range []struct {
		what, rules  string
		tcp, udp, lo bool // get through
	}{
		{"nothing", "add table inet fw; add chain inet fw input { type filter hook input priority 0; };", true, true, true},
		{"a port", "add rule inet fw input tcp dport 8080 iifname eth0 reject with tcp reset", false, true, true},
		{"a port of a client", "flush chain inet fw input; add rule inet fw input ip saddr 192.0.2.100 udp dport 8080 reject", true, false, true},
		{"another client", "flush chain inet fw input; add rule inet fw input ip saddr 192.0.2.101 drop", true, true, true},
		{"whatever is not accepted", "flush chain inet fw input; add chain inet fw input { policy drop; }; " +
			"add rule inet fw input iif lo accept; add rule inet fw input ct state established,related accept; add rule inet fw input udp dport { 4789, 7946 } accept", false, false, true},
		{"but for a port", "add rule inet fw input meta l4proto { tcp, udp } th dport 8080 accept", true, true, true},
		{"the prerouting hook", "flush ruleset; add table ip raw; add chain ip raw pre { type filter hook prerouting priority -300; }; add rule ip raw pre tcp dport 8080 iifname eth0 drop", false, true, true},
	} {
		l.filter(n, c.rules)
		l.eventually(c.what+": our own rules stand", func() bool {
			return strings.Contains(l.sh("ip", "netns", "exec", n.ns, "nft", "list", "tables"), "ip meshd_input")
		})
		for _, call := range []struct {
			ns, network, to string
			through         bool
			seen            string
		}{
			{l.client, "tcp4", n.published(), c.tcp, clientAddr},
			{l.client, "udp4", n.published(), c.udp, clientAddr},
			{n.ns, "tcp4", "127.0.0.1:8080", c.lo, n.addr.String()},
			{near.ns, "tcp4", n.published(), c.lo, ""},
			{l.client, "tcp4", l.nodes[1].published(), true, clientAddr},
		} {
			firewalled(l, c.what, call.ns, call.network, call.to, call.through, call.seen)
		}
		if err := open.echo("tcp4", 5000); err != nil {
			t.Errorf("%s: the connection from before: %v", c.what, err)
		}
	}
	l.blame()
}

func firewalled(l *lab, what, ns, network, to string, through bool, seen string) {
	l.t.Helper()
	s, err := call(ns, network, to, 3000)
	switch {
	case through && err != nil:
		l.t.Errorf("denied %s: %s from %s to %s: %v", what, network, ns, to, err)
	case through && seen != "" && s.seen.Addr().String() != seen:
		l.t.Errorf("denied %s: %s from %s to %s is seen as %v, want %s", what, network, ns, to, s.seen, seen)
	case !through && !refusedOrLost(err):
		l.t.Errorf("denied %s: %s from %s to %s gets through (%v)", what, network, ns, to, err)
	}
}

// Large and fragmented datagrams are as good a beginning as small ones.
func TestFirewalledPortTakesLargeFirstDatagrams(t *testing.T) {
	l := newLab(t)
	near, far := l.task(l.nodes[0]), l.task(l.nodes[1])
	l.serve(near.ns, taskPort)
	l.serve(far.ns, taskPort)
	for _, only := range []*task{near, far} {
		l.out = map[*task]bool{near: true, far: true}
		delete(l.out, only)
		l.settle()
		for _, size := range []int{1400, 8000, 60000} {
			s := &session{}
			l.check(in(l.client, func() (err error) {
				s.Conn, err = net.Dial("udp4", l.nodes[0].published())
				return err
			}))
			if err := s.echo("udp4", size); err != nil {
				t.Errorf("first datagram of %d bytes to %s: %v", size, only.mesh, err)
			}
			s.Close()
		}
	}
	l.blame()
}
