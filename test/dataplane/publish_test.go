package dataplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/meshd/meshd/ipvs"
)

const (
	secondNode   = "203.0.113.1"
	secondClient = "203.0.113.100"
)

// secondLink joins the first node and the client on one more device of each.
func (l *lab) secondLink() {
	l.t.Helper()
	n := l.nodes[0]
	l.sh("ip", "-n", n.ns, "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", l.client)
	for ns, addr := range map[string]string{n.ns: secondNode, l.client: secondClient} {
		l.sh("ip", "-n", ns, "addr", "add", addr+"/24", "dev", "eth1")
		l.sh("ip", "-n", ns, "link", "set", "eth1", "up")
	}
}

// publishOn has the first node publish on some addresses only; none: on all.
func (l *lab) publishOn(addrs ...string) {
	l.t.Helper()
	l.change = func(n *node, s *ipvs.State) {
		if n != l.nodes[0] {
			return
		}
		s.NodeAddrs = append(s.NodeAddrs, netip.MustParseAddr(secondNode))
		var services []ipvs.Service
		for _, svc := range s.Services {
			if !svc.Published() || len(addrs) == 0 {
				services = append(services, svc)
				continue
			}
			for _, a := range addrs {
				svc.VIP = netip.MustParseAddr(a)
				services = append(services, svc)
			}
		}
		s.Services = services
	}
	l.settle()
}

func TestPublishedOnChosenAddresses(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		far := l.task(l.nodes[1])
		l.secondLink()
		l.publishOn()
		l.serve(far.ns, taskPort)
		l.eventually("the second device is looked at", func() bool {
			s, err := call(l.client, "tcp4", secondNode+":8080", 1)
			return err == nil && s.seen.Addr() == netip.MustParseAddr(secondClient)
		})
		const first = "192.0.2.1"
		for _, c := range []struct {
			on             []string
			outside, local []string // addresses that answer the client, and the node itself
		}{
			{nil, []string{first, secondNode}, []string{first, secondNode, "127.0.0.1", "::1"}},
			{[]string{secondNode}, []string{secondNode}, []string{secondNode}},
			{[]string{first, "127.0.0.1"}, []string{first}, []string{first, secondNode, "127.0.0.1", "::1"}},
			{[]string{"127.0.0.1"}, nil, []string{first, secondNode, "127.0.0.1", "::1"}},
		} {
			l.publishOn(c.on...)
			for _, network := range []string{"tcp", "udp"} {
				answersAt(l, fmt.Sprintf("%s on %v", network, c.on), l.client, network, []string{first, secondNode}, c.outside)
				answersAt(l, fmt.Sprintf("%s on %v", network, c.on), l.nodes[0].ns, network, []string{first, secondNode, "127.0.0.1", "::1"}, c.local)
			}
		}
	})
}

// answersAt calls every one of the addresses; those wanted answer, the others refuse.
func answersAt(l *lab, what, ns, network string, all, want []string) {
	l.t.Helper()
	wanted := " " + strings.Join(want, " ") + " "
	for _, a := range all {
		_, err := call(ns, network, net.JoinHostPort(a, "8080"), 100)
		switch {
		case strings.Contains(wanted, " "+a+" ") && err != nil:
			l.t.Errorf("%s: %s from %s: %v", what, a, ns, err)
		case !strings.Contains(wanted, " "+a+" ") && !errors.Is(err, syscall.ECONNREFUSED):
			l.t.Errorf("%s: %s from %s: %v, want it refused", what, a, ns, err)
		}
	}
}

// A node without a task refuses, so that a load balancer outside takes it out.
func TestPublishedForLocalTasksOnly(t *testing.T) {
	l := newLab(t)
	near, far := l.task(l.nodes[0]), l.task(l.nodes[1])
	l.serve(near.ns, taskPort)
	l.serve(far.ns, taskPort)
	l.change = func(n *node, s *ipvs.State) {
		for i := range s.Services {
			s.Services[i].LocalOnly = s.Services[i].Published()
			for j, b := range s.Services[i].Backends {
				s.Services[i].Backends[j].Local = b.Addr == near.mesh && n == near.node || b.Addr == far.mesh && n == far.node
			}
		}
	}
	l.settle()
	for _, network := range []string{"tcp4", "udp4"} {
		for _, c := range []*task{near, far} {
			for range 10 {
				s, err := call(l.client, network, c.node.published(), 100)
				if err != nil || s.server != c.ns {
					t.Errorf("%s through %s: %+v, %v", network, c.node.addr, s, err)
				}
			}
		}
	}
	l.out[near] = true
	l.settle()
	for _, network := range []string{"tcp4", "udp4"} {
		if _, err := call(l.client, network, near.node.published(), 100); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s through the node without a task: %v", network, err)
		}
		if _, err := call(l.client, network, far.node.published(), 100); err != nil {
			t.Errorf("%s through the other: %v", network, err)
		}
	}
	l.blame()
}

// plain starts a container that the engine put on its own bridge, which masquerades.
func (l *lab) plain(n *node) string {
	l.t.Helper()
	ns := l.namespace("plain")
	l.sh("ip", "-n", n.ns, "link", "add", "docker0", "type", "bridge")
	l.sh("ip", "-n", n.ns, "addr", "add", "172.17.0.1/16", "dev", "docker0")
	l.sh("ip", "-n", n.ns, "link", "set", "docker0", "up")
	l.sh("ip", "-n", n.ns, "link", "add", "veth9", "type", "veth", "peer", "name", "eth0", "netns", ns)
	l.sh("ip", "-n", n.ns, "link", "set", "veth9", "master", "docker0", "up")
	l.sh("ip", "-n", ns, "addr", "add", "172.17.0.2/16", "dev", "eth0")
	l.sh("ip", "-n", ns, "link", "set", "eth0", "up")
	l.sh("ip", "-n", ns, "route", "add", "default", "via", "172.17.0.1")
	l.sh("ip", "netns", "exec", n.ns, "nft", "add table ip engine; add chain ip engine post { type nat hook postrouting priority 100; };"+
		" add rule ip engine post ip saddr 172.17.0.0/16 oifname != docker0 masquerade")
	return ns
}

// A container on the engine's bridge reaches published ports by every address of
// every node; its own address is seen unless its node had to masquerade.
func TestPublishedPortFromPlainContainers(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		near, far := l.task(l.nodes[0]), l.task(l.nodes[1])
		l.serve(near.ns, taskPort)
		l.serve(far.ns, taskPort)
		bridge := netip.MustParseAddr("172.17.0.1")
		l.change = func(n *node, s *ipvs.State) {
			if n == l.nodes[0] {
				s.NodeAddrs = append(s.NodeAddrs, bridge)
			}
		}
		plain := l.plain(l.nodes[0])
		l.settle()
		l.eventually("the bridge is looked at", func() bool {
			_, err := call(plain, "tcp4", l.nodes[0].published(), 1)
			return err == nil
		})
		own := netip.MustParseAddr("172.17.0.2")
		for _, only := range []*task{near, far} {
			l.out = map[*task]bool{near: true, far: true}
			delete(l.out, only)
			l.settle()
			for _, network := range []string{"tcp4", "udp4"} {
				for to, seen := range map[netip.Addr]netip.Addr{l.nodes[0].addr: own, bridge: own, l.nodes[1].addr: l.nodes[0].addr} {
					s, err := call(plain, network, netip.AddrPortFrom(to, published).String(), 5000)
					if err != nil || s.server != only.ns || s.seen.Addr() != seen {
						t.Errorf("%s to %s for %s: %+v, %v; want %s seen", network, to, only.mesh, s, err, seen)
					}
				}
			}
		}
		s, err := call(l.nodes[0].ns, "tcp4", netip.AddrPortFrom(bridge, published).String(), 100)
		if err != nil || s.seen.Addr() != l.nodes[0].addr { // the engine's rule masquerades its bridge's address on lo, too
			t.Errorf("the node itself by the bridge's address: %+v, %v", s, err)
		}
	})
}
