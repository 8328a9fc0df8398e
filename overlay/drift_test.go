package overlay

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// drift is something that somebody may do to a node, and the kind that its repair counts as.
type drift struct {
	kind  string
	harm  func()
	check func() bool
}

// repairs has a subtest of its own do harm, and wait until it is counted as repaired and works again.
func (n *node) repairs(what string, d drift) bool {
	l, t := n.lab, n.lab.t
	defer func() { l.t = t }()
	return t.Run(what, func(t *testing.T) {
		l.t = t
		before := n.ask(request{Op: "repairs"}).Repairs[d.kind]
		d.harm()
		l.eventually("counted as a repair", func() bool { return n.ask(request{Op: "repairs"}).Repairs[d.kind] > before })
		l.eventually("works again", d.check)
	})
}

func TestDriftIsRepaired(t *testing.T) {
	for name, env := range map[string][]string{"tcx": nil, "clsact": {"OVERLAY_TEST_NOTCX=1"}} {
		t.Run(name, func(t *testing.T) { testDriftIsRepaired(t, name, env) })
	}
}

func testDriftIsRepaired(t *testing.T, name string, env []string) {
	l := directLab(t, false, env...)
	n := l.nodes[0]
	a := n.container().process().join(meshNetwork(), "10.255.0.2").join(userNetwork(1), "10.0.1.2")
	near := n.container().process().join(userNetwork(1), "10.0.1.4")
	b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3").join(meshNetwork(), "10.255.0.3")
	l.settle(a, near, b)
	l.becomesDirect(a.ns, "10.0.1.3")

	answers := func(from, to string) func() bool {
		return func() bool { return ping(from, to, 8, absence) == nil }
	}
	near13, world, gateway, inward := answers(a.ns, "10.0.1.3"), answers(a.ns, worldAddr), answers(a.ns, "10.255.0.1"), answers(n.ns, "10.255.0.2")
	all := func(checks ...func() bool) func() bool {
		return func() bool {
			for _, c := range checks {
				if !c() {
					return false
				}
			}
			return true
		}
	}
	host := func(c *container, i int) string { return "mv" + c.attach[i].ID[:12] }
	forget := func(table string) func() {
		return func() { l.check(empty(filepath.Join(n.dir, "bpf", table))) }
	}
	drifts := map[string]drift{
		"tunnel deleted":          {"tunnel", func() { l.ip(n.ns, "link", "del", "mesh-vx0") }, near13},
		"tunnel down":             {"tunnel", func() { l.ip(n.ns, "link", "set", "mesh-vx0", "down") }, near13},
		"gateway device deleted":  {"gateway", func() { l.ip(n.ns, "link", "del", "mesh0") }, gateway},
		"gateway address deleted": {"gateway", func() { l.ip(n.ns, "addr", "flush", "dev", "mesh0") }, gateway},
		"container's interface deleted": {"interface", func() { l.ip(n.ns, "link", "del", host(a, 1)) },
			all(near13, answers(a.ns, "10.0.1.4"))},
		"container's mesh interface deleted": {"interface", func() { l.ip(n.ns, "link", "del", host(a, 0)) }, all(gateway, world, inward)},
		"container's interface down":         {"interface", func() { l.ip(n.ns, "link", "set", host(a, 1), "down") }, near13},
		"route deleted":                      {"route", func() { l.ip(n.ns, "route", "del", "10.255.0.2") }, inward},
		"neighbour deleted":                  {"neighbour", func() { l.ip(n.ns, "neigh", "del", "10.255.0.2", "dev", host(a, 0)) }, inward},
		"nftables' table deleted":            {"masquerade", func() { l.nft(n, "delete table ip meshd") }, world},
		"nftables' rule deleted":             {"masquerade", func() { l.nft(n, "flush chain ip meshd postrouting") }, world},
		"tunnel's rules deleted":             {"untracked", func() { l.nft(n, "flush chain ip meshd_tunnel raw_in") }, near13},
		"forwarding switched off": {"sysctl", func() {
			l.within(n.ns, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) })
		}, world},
		"forwarding halves deleted":      {"program", func() { l.check(emptySlots(HooksPath(n.dir))) }, near13},
		"endpoints deleted":              {"endpoint", forget("mesh_endpoints"), all(near13, answers(a.ns, "10.0.1.4"))},
		"interface rules deleted":        {"interface", forget("mesh_ifaces"), near13},
		"subnets deleted":                {"subnet", forget("mesh_subnets"), near13},
		"peers deleted":                  {"peer", forget("mesh_peers"), near13},
		"neighbours on the link deleted": {"direct", forget("mesh_onlink"), near13},
		"settings overwritten":           {"settings", forget("mesh_config"), near13},
		"own MAC overwritten":            {"settings", forget("mesh_self"), near13},
		"switches overwritten":           {"settings", forget("mesh_switches"), near13},
	}
	for _, program := range []string{"tunnel", "container", "underlay"} {
		drifts[program+" program detached"] = drift{"program", func() { l.detach(n, name, program, host(a, 1)) }, near13}
	}
	// First, since other harm leads to the tunnel for a while.
	ok := n.repairs("direct ways deleted", drift{"direct", forget("mesh_direct"), near13})
	for what, d := range drifts {
		if !ok {
			break
		}
		if name == "clsact" && d.kind != "program" {
			continue // nothing else depends on it
		}
		ok = n.repairs(what, d)
	}
}

func (l *lab) nft(n *node, rules string) { l.sh("ip", "netns", "exec", n.ns, "nft", rules) }

// detach takes a program off its device.
func (l *lab) detach(n *node, way, program, container string) {
	l.t.Helper()
	device := map[string]string{"tunnel": "mesh-vx0", "container": container, "underlay": "eth0"}[program]
	if way == "clsact" {
		l.sh("tc", "-n", n.ns, "qdisc", "del", "dev", device, "clsact")
		return
	}
	l.within(n.ns, func() error {
		i, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		return os.Remove(filepath.Join(n.dir, "bpf", "links", fmt.Sprintf("%s-%d", program, i.Index)))
	})
}
