package overlay

import (
	"strings"
	"testing"
)

// iptables runs a command in the node's namespace.
func (n *node) iptables(args string) {
	n.lab.t.Helper()
	n.lab.within(n.ns, func() error { n.lab.sh("iptables-nft", strings.Fields(args)...); return nil })
}

func TestContainersReachTheWorldThroughDockersFirewall(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	a := n.container().join(meshNetwork(), "10.255.0.2")
	l.settle(a)
	l.echo(l.world)
	reaches := func() bool { return ping(a.ns, worldAddr, 8, absence) == nil }
	l.pings(a.ns, worldAddr)
	n.iptables("-P FORWARD DROP")
	l.eventually("the policy takes effect", func() bool { return !reaches() })
	n.iptables("-N DOCKER-USER")
	n.iptables("-A FORWARD -j DOCKER-USER")
	n.iptables("-A DOCKER-USER -j RETURN")
	l.eventually("our rules are there", reaches)
	if _, err := tcp(a.ns, worldAddr, 1<<16); err != nil {
		t.Errorf("TCP to the world: %v", err)
	}
	n.iptables("-D DOCKER-USER 1")
	l.eventually("they come back", reaches)
	n.iptables("-F DOCKER-USER")
	l.eventually("both come back", reaches)

	// Nobody from outside gets in by them, and what the host denies stays denied.
	l.ip(l.world, "route", "add", "10.255.0.2", "via", n.addr.String())
	l.pingsNot(l.world, "10.255.0.2")
	n.iptables("-I DOCKER-USER -d " + worldAddr + " -j DROP")
	l.pingsNot(a.ns, worldAddr)

	n.ask(request{Op: "set", State: State{}})
	var left string
	l.within(n.ns, func() error { left = l.sh("iptables-nft", "-S", "DOCKER-USER"); return nil })
	if strings.Contains(left, "meshd") || !strings.Contains(left, "-d "+worldAddr) {
		t.Errorf("after the end:\n%s", left)
	}
}
