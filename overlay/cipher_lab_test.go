package overlay

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/meshd/meshd/overlay/overlaytest"
)

// encryptedLab has nodes whose user networks are encrypted.
func encryptedLab(t *testing.T, six bool, nodes int, env ...string) *lab {
	l := newLabOn(t, six, nodes, env...)
	l.encrypted = true
	return l
}

// spreadKeys tells every node the others' keys, as managers do.
func (l *lab) spreadKeys(containers ...*container) {
	l.t.Helper()
	for _, n := range l.nodes {
		n.keys = n.ask(request{Op: "keys"}).Keys
	}
	for _, n := range l.nodes {
		n.ask(request{Op: "set", State: l.stateOf(n, containers)})
	}
}

// capture looks at all frames that a node sends and receives until the test ends.
func (l *lab) capture(ns string, inner ...[2]string) *overlaytest.Wire {
	l.t.Helper()
	var w *overlaytest.Wire
	l.within(ns, func() (err error) {
		w, err = overlaytest.Tap("eth0", defaultWireGuardPort, inner...)
		return err
	})
	l.t.Cleanup(w.Close)
	return w
}

// tellsNothing fails the test unless what was seen is encrypted.
func (l *lab) tellsNothing(w *overlaytest.Wire) {
	l.t.Helper()
	if err := w.OnlySealed(); err != nil {
		l.t.Error(err)
	}
}

// talk sends the secret by TCP and UDP to an echo server, and has it back.
func (l *lab) talk(ns, to string) {
	l.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		l.eventually(network+" to "+to, func() bool { return say(ns, network, to) == nil })
	}
}

func say(ns, network, to string) error {
	c, err := dial(ns, network, net.JoinHostPort(to, "7"), retry)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(retry))
	if network == "tcp" {
		var seen string
		if _, err := fmt.Fscanln(c, &seen); err != nil {
			return err
		}
	}
	if _, err := c.Write([]byte(overlaytest.Secret)); err != nil {
		return err
	}
	back := make([]byte, len(overlaytest.Secret))
	n, err := c.Read(back)
	if err == nil && string(back[:n]) != overlaytest.Secret {
		err = fmt.Errorf("%q came back", back[:n])
	}
	return err
}

func TestEncryptedNetworksShowNothingOnTheWire(t *testing.T) {
	for name, c := range map[string]struct {
		six bool
		env []string
		mtu int
	}{
		"over IPv4": {mtu: 1440}, "over IPv6": {six: true, mtu: 1420}, "over IPv4, clsact": {env: []string{"OVERLAY_TEST_NOTCX=1"}, mtu: 1440},
		"over IPv4, without eBPF": {env: []string{onBridge}, mtu: 1440}, "over IPv6, without eBPF": {six: true, env: []string{onBridge}, mtu: 1420},
	} {
		t.Run(name, func(t *testing.T) {
			l := encryptedLab(t, c.six, 2, c.env...)
			l.transport = TransportDirect
			a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2", "fd00:0:0:1::2")
			near := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.3", "fd00:0:0:1::3")
			b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.4", "fd00:0:0:1::4")
			l.settle(a, near, b)
			l.addressed(a, near, b)
			l.echo(near.ns)
			l.echo(b.ns)
			wire := l.capture(l.nodes[0].ns, [2]string{"10.0.1.2", "10.0.1.4"}, [2]string{"fd00:0:0:1::2", "fd00:0:0:1::4"})
			for _, to := range []string{"10.0.1.3", "10.0.1.4", "fd00:0:0:1::3", "fd00:0:0:1::4"} {
				l.talk(a.ns, to)
				if seen, err := tcp(a.ns, to, 1<<20); err != nil || seen != "10.0.1.2" && seen != "fd00:0:0:1::2" {
					t.Errorf("TCP to %s: seen as %s, %v", to, seen, err)
				}
				for _, size := range []int{1, 1400, 1472, 20000} {
					if err := udp(a.ns, to, size); err != nil {
						t.Errorf("UDP with %d bytes to %s: %v", size, to, err)
					}
				}
			}
			l.eventually("what fits is sent", func() bool { return a.hasMTU(c.mtu) && b.hasMTU(c.mtu) })
			l.tellsNothing(wire)
			if t.Failed() {
				for _, n := range l.nodes {
					t.Log(n.ns, n.ask(request{Op: "drops"}).Drops)
				}
			}
			// The test can fail: without encryption it is all there to read.
			l.encrypted = false
			l.settle(a, near, b)
			l.talk(a.ns, "10.0.1.4")
			l.eventually("the capture sees what is in the clear", func() bool { return wire.Clear() > 0 })
		})
	}
}

// The little that test-vm runs: the kernel's own WireGuard where it has one, and what it puts on the wire.
func TestTheKernelEncryptsWhereItCan(t *testing.T) {
	l := encryptedLab(t, false, 2)
	a := l.nodes[0].container().process().join(userNetwork(1), "10.0.1.2", "fd00:0:0:1::2")
	b := l.nodes[1].container().process().join(userNetwork(1), "10.0.1.3", "fd00:0:0:1::3")
	l.settle(a, b)
	l.addressed(a, b)
	l.echo(b.ns)
	wire := l.capture(l.nodes[0].ns, [2]string{"10.0.1.2", "10.0.1.3"}, [2]string{"fd00:0:0:1::2", "fd00:0:0:1::3"})
	l.talk(a.ns, "10.0.1.3")
	l.talk(a.ns, "fd00:0:0:1::3")
	l.tellsNothing(wire)
	inKernel, err := CanEncrypt()
	if helper := l.helper(l.nodes[0]); err != nil || inKernel != (helper == "") {
		t.Errorf("the kernel has WireGuard: %v (%v), and the device has process %q", inKernel, err, helper)
	}
	t.Logf("the kernel has WireGuard: %v", inKernel)
}
