package overlay

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// iptables runs a command in the node's namespace.
func (n *node) iptables(args string) {
	n.lab.t.Helper()
	n.lab.within(n.ns, func() error { n.lab.sh("iptables-nft", strings.Fields(args)...); return nil })
}

func TestContainersReachTheWorldThroughDockersFirewall(t *testing.T) {
	onEachDriver(t, testContainersReachTheWorldThroughDockersFirewall)
}

func testContainersReachTheWorldThroughDockersFirewall(t *testing.T, d Driver, env ...string) {
	l := newLab(t, 1, env...)
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

// A query of a container must not take a row of the node's connection tracking;
// what is no query does, as far as it is no answer.
func TestQueriesAreNotTracked(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	a := n.container().join(meshNetwork(), "10.255.0.2", "fd00:255::2")
	l.settle(a)
	l.addressed(a)
	for _, gateway := range []string{"10.255.0.1", "fd00:255::1"} {
		l.within(n.ns, func() error { return answersBack(t, gateway, 53, 54) })
		for _, port := range []string{"54", "53"} { // in this order: tracking is at work
			c, err := dial(a.ns, "udp", net.JoinHostPort(gateway, port), patience)
			l.check(err)
			defer c.Close()
			l.eventually("an answer from "+gateway+", port "+port, func() bool { return asksOnce(c) == nil })
		}
		if n.tracked("54") == 0 {
			t.Errorf("%s: what is no query is not tracked: this test tells nothing", gateway)
		}
		if rows := n.tracked("53"); rows != 0 {
			t.Errorf("%s: %d rows for queries", gateway, rows)
		}
	}
}

// Each connection through the tunnel has an outer source port of its own; no node may
// remember them. What else nodes send each other is theirs to track.
func TestTheTunnelIsNotTracked(t *testing.T) {
	for name, six := range map[string]bool{"over IPv4": false, "over IPv6": true} {
		t.Run(name, func(t *testing.T) {
			l := newLabOn(t, six, 2)
			a := l.nodes[0].container().join(meshNetwork(), "10.255.0.2").join(userNetwork(1), "10.0.1.2")
			b := l.nodes[1].container().join(userNetwork(1), "10.0.1.3")
			l.settle(a, b)
			l.within(l.nodes[1].ns, func() error { return answersBack(t, l.nodes[1].addr.String(), 54) })
			l.within(b.ns, func() error { return answersBack(t, "10.0.1.3", 54) })
			for range 20 {
				for from, to := range map[string]string{l.nodes[0].ns: l.nodes[1].addr.String(), a.ns: "10.0.1.3"} {
					c, err := dial(from, "udp", net.JoinHostPort(to, "54"), patience)
					l.check(err)
					defer c.Close()
					l.eventually("an answer from "+to, func() bool { return asksOnce(c) == nil })
				}
			}
			for _, n := range l.nodes {
				if n.tracked("54") == 0 {
					t.Errorf("%s: what is not the tunnel's is not tracked: this test tells nothing", n.ns)
				}
				if rows := n.tracked("4789"); rows != 0 {
					t.Errorf("%s: %d rows for tunnelled packets", n.ns, rows)
				}
			}
		})
	}
}

// tracked counts the connection tracking table's rows of connections to a port.
func (n *node) tracked(port string) (rows int) {
	n.lab.t.Helper()
	n.lab.within(n.ns, func() error {
		table, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
		rows = strings.Count(string(table), "dport="+port+" ")
		return err
	})
	return rows
}

// answersBack opens UDP sockets that send back what they get, until the test ends.
func answersBack(t *testing.T, addr string, ports ...int) error {
	for _, port := range ports {
		conn, err := net.ListenPacket("udp", net.JoinHostPort(addr, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		t.Cleanup(func() { conn.Close() })
		go func() { // ends with its socket
			buffer := make([]byte, 100)
			for {
				n, from, err := conn.ReadFrom(buffer)
				if err != nil {
					return
				}
				conn.WriteTo(buffer[:n], from)
			}
		}()
	}
	return nil
}

func asksOnce(c net.Conn) error {
	if _, err := c.Write([]byte("query")); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(retry)); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 100))
	return err
}
