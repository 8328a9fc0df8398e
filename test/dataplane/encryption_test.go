package dataplane

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/overlay/overlaytest"
)

const wireGuardPort = 51820

// Of what clients of a published port send and are answered nothing is to be read between the nodes where the mesh network is encrypted.
func TestEncryptedIngressShowsNothing(t *testing.T) {
	for name, env := range map[string][]string{"tcx": nil, "clsact": {"DATAPLANE_TEST_NOTCX=1"}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, env...)
			defer l.blame()
			l.dual, l.encrypted = true, true
			l.change = func(_ *node, s *ipvs.State) { s.TunnelLimit = 1500 - 60 - 70 } // WireGuard's and the tunnel's headers
			entry, far := l.nodes[0], l.task(l.nodes[1])
			l.live(far) // and has the MTU that it should
			l.settle()
			l.serve(far.ns, taskPort)
			wire := l.tap(far.node, [2]string{clientAddr, far.mesh.String()}, [2]string{clientSix, far.six.String()})
			for _, c := range []struct {
				network, client string
				to              netip.Addr
			}{{"tcp4", clientAddr, entry.addr}, {"udp4", clientAddr, entry.addr}, {"tcp6", clientSix, entry.six}, {"udp6", clientSix, entry.six}} {
				l.says(c.network, c.to, c.client, 1)
				l.says(c.network, c.to, c.client, 100) // in fragments, or segments
			}
			if err := wire.OnlySealed(); err != nil {
				t.Error(err)
			}
			// The test can fail: without encryption it is all there to read.
			l.encrypted = false
			l.settle()
			l.says("tcp4", entry.addr, clientAddr, 1)
			l.eventually("the capture sees what is in the clear", func() bool { return wire.Clear() > 0 })
		})
	}
}

// says has the client outside send the secret, so many times at once, to a published port and have it back from a task, which sees who it is.
func (l *lab) says(network string, node netip.Addr, client string, times int) {
	l.t.Helper()
	wait := time.Duration(0)
	l.eventually("the secret by "+network, func() bool {
		s, err := dial(l.client, network, "", net.JoinHostPort(node.String(), strconv.Itoa(published)))
		if err != nil {
			return false
		}
		defer s.Close()
		if s.seen.Addr() != netip.MustParseAddr(client) {
			l.t.Fatalf("%s: the task sees %v, not the client's %s", network, s.seen, client)
		}
		wait += time.Second // longer each time: a datagram that is too long may be lost for learning that
		l.check(s.SetDeadline(time.Now().Add(wait)))
		return s.mirrors(network, []byte(strings.Repeat(overlaytest.Secret, times))) == nil
	})
}

// tap looks at all that a node sends and receives until the test ends.
func (l *lab) tap(n *node, inner ...[2]string) *overlaytest.Wire {
	l.t.Helper()
	var w *overlaytest.Wire
	l.check(in(n.ns, func() (err error) {
		w, err = overlaytest.Tap("eth0", wireGuardPort, inner...)
		return err
	}))
	l.t.Cleanup(w.Close)
	return w
}
