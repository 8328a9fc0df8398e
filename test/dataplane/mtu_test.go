package dataplane

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"testing"
)

// mtu sets that of a machine's own device, and leaves the link's other end wide: what is too long for the machine vanishes there, as on a
// network card.
func (l *lab) mtu(ns string, mtu int) {
	l.t.Helper()
	l.sh("ip", "-n", ns, "link", "set", "eth0", "mtu", strconv.Itoa(mtu))
}

const transfer = 2 << 20

// Large transfers pass both ways between machines of different MTU, by published port and by VIP, without a setting: nobody on the way
// says what does not fit.
func TestMachinesOfDifferentMTU(t *testing.T) {
	for _, c := range []struct{ client, entry, task int }{{9000, 1500, 9000}, {9000, 1280, 9000}} {
		t.Run(fmt.Sprintf("client %d, entry %d, task's node %d", c.client, c.entry, c.task), func(t *testing.T) {
			l := newLab(t)
			defer l.blame()
			for _, port := range regexp.MustCompile(`p\d+`).FindAllString(l.sh("ip", "-n", l.hub, "-br", "link", "show", "master", "br0"), -1) {
				l.sh("ip", "-n", l.hub, "link", "set", port, "mtu", "9000")
			}
			l.sh("ip", "-n", l.hub, "link", "set", "br0", "mtu", "9000")
			l.mtu(l.client, c.client)
			l.mtu(l.nodes[0].ns, c.entry)
			l.mtu(l.nodes[1].ns, c.task)
			caller, server := l.task(l.nodes[0]), l.task(l.nodes[1])
			l.out[caller] = true
			l.settle()
			// No process is in these containers, by which the node would find their ends.
			for _, dev := range []string{"eth0", "eth1"} {
				l.sh("ip", "-n", caller.ns, "link", "set", dev, "mtu", strconv.Itoa(c.entry-50))
				l.sh("ip", "-n", server.ns, "link", "set", dev, "mtu", strconv.Itoa(c.task-50))
			}
			l.offloadsOff()
			l.serve(server.ns, taskPort)
			if _, err := call(l.client, "tcp4", l.nodes[0].published(), transfer); err != nil {
				t.Errorf("by the published port: %v", err)
			}
			if _, err := call(caller.ns, "tcp4", net.JoinHostPort(vip, strconv.Itoa(taskPort)), transfer); err != nil {
				t.Errorf("by the VIP: %v", err)
			}
		})
	}
}
