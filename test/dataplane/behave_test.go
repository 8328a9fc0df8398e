package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
	"github.com/meshd/meshd/ipvs/kernel"
	"github.com/meshd/meshd/overlay"
)

// behaving is an ipvstest.Rig: a client on the first node, backends on both.
type behaving struct {
	*lab
	client   *task
	backends []*task
}

func newBehaving(t *testing.T, env ...string) *behaving {
	t.Helper()
	b := &behaving{lab: newLab(t, env...)}
	b.client = b.task(b.nodes[0])
	for i := range 4 {
		c := b.task(b.nodes[i%2])
		b.serve(c.ns, taskPort)
		b.backends = append(b.backends, c)
	}
	b.settle()
	b.lookUp(b.client)
	return b
}

func TestBalancersBehave(t *testing.T) {
	for _, mode := range []string{"socket", "packet"} {
		t.Run(mode, func(t *testing.T) {
			b := newBehaving(t, "DATAPLANE_TEST_MODE="+mode)
			ipvstest.Behave(t, func(*testing.T) ipvstest.Rig { return b })
		})
	}
}

// With IPVS, VIPs are led inside containers, published ports and what IPVS has not got to as ever. A node turns from one balancer to another
// with a restart.
func TestVIPsByIPVS(t *testing.T) {
	if err := kernel.Supported(); err != nil {
		t.Skipf("SKIPPED: %v; make test-vm runs it on kernels that have it", err)
	}
	for name, driver := range map[string]overlay.Driver{"before eBPF": overlay.DriverEBPF, "before nftables": overlay.DriverBridge} {
		t.Run(name, func(t *testing.T) {
			env := "DATAPLANE_TEST_DRIVER=" + string(driver)
			b := newBehaving(t, env, "DATAPLANE_TEST_IPVS=1")
			b.out[b.client], b.spread = true, func(s *ipvs.Service) { s.Algorithm = ipvs.RoundRobin }
			b.settle()
			begun := b.session() // the container has no process yet, and is led on the node
			for _, c := range b.tasks {
				b.live(c)
			}
			b.ledInside(b.client)
			b.stays(begun, "begun before IPVS was there")
			b.spreads()
			if driver == overlay.DriverEBPF { // whose VIPs answer pings
				b.check(ping(b.client.ns, vip))
			}

			inside := b.session()
			b.nodes[0].kill()
			b.stays(inside, "without a daemon")
			b.turn(env)
			if b.hasIPVS(b.client) {
				t.Error("IPVS is left where the node leads")
			}
			b.ends(inside, "led by IPVS, which is gone")
			b.spreads()

			onNode := b.session()
			b.turn(env, "DATAPLANE_TEST_IPVS=1")
			b.ledInside(b.client)
			b.stays(onNode, "begun before IPVS was there again")
			b.spreads()
		})
	}
}

// turn starts the first node's daemon anew, in another environment.
func (b *behaving) turn(env ...string) {
	b.t.Helper()
	b.nodes[0].kill()
	b.env = env
	b.start(b.nodes[0])
	b.settle()
}

// spreads calls the VIP and a published port, and looks who answers and whom that one sees.
func (b *behaving) spreads() {
	b.t.Helper()
	for _, network := range []string{"tcp4", "udp4"} {
		from := map[string]int{}
		for range 8 {
			s, err := call(b.client.ns, network, fmt.Sprintf("%s:%d", vip, taskPort), 8000)
			b.check(err)
			if s.seen.Addr() != b.client.user {
				b.t.Fatalf("%s: the task sees %v, not the client's %v", network, s.seen, b.client.user)
			}
			from[s.server]++
		}
		if len(from) != 4 || from[b.backends[0].ns] != 2 {
			b.t.Errorf("%s: %v, want 2 of each", network, from)
		}
		s, err := call(b.lab.client, network, b.nodes[0].published(), 8000)
		b.check(err)
		if s.seen.Addr().String() != clientAddr {
			b.t.Errorf("%s, published: the task sees %v, not the client's %s", network, s.seen, clientAddr)
		}
	}
}

// session is a TCP connection to the VIP.
func (b *behaving) session() ipvstest.Session {
	b.t.Helper()
	s, err := b.Open(ipvs.TCP)
	b.check(err)
	b.t.Cleanup(func() { s.Close() })
	_, err = s.Exchange()
	b.check(err)
	return s
}

func (b *behaving) stays(s ipvstest.Session, what string) {
	b.t.Helper()
	if _, err := s.Exchange(); err != nil {
		b.t.Errorf("a connection %s: %v", what, err)
	}
}

// ends wants it reset, and not silent for ever.
func (b *behaving) ends(s ipvstest.Session, what string) {
	b.t.Helper()
	b.eventually("the end of a connection "+what, func() bool {
		_, err := s.Exchange()
		return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
	})
}

func (b *behaving) ledInside(c *task) {
	b.t.Helper()
	b.eventually("IPVS leads inside of a container", func() bool {
		b.settle()
		return b.hasIPVS(c)
	})
}

// hasIPVS says whether a container holds services of IPVS.
func (b *behaving) hasIPVS(c *task) bool {
	b.t.Helper()
	var text []byte
	b.check(in(c.ns, func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/ip_vs")
		return err
	}))
	return strings.Contains(string(text), "FWM")
}

// live runs a process in a container: by that the overlay finds its namespace.
func (l *lab) live(c *task) {
	l.t.Helper()
	p := exec.Command("sleep", "infinity")
	l.check(in(c.ns, p.Start))
	l.t.Cleanup(func() { _, _ = p.Process.Kill(), p.Wait() })
}

// State implements ipvstest.Rig.
func (b *behaving) State() ipvs.State {
	s := b.balanceOf(b.nodes[0])
	s.Services = s.Services[:1]
	s.Services[0].Backends = nil
	for _, c := range b.backends {
		s.Services[0].Backends = append(s.Services[0].Backends, ipvs.Backend{Addr: c.user})
	}
	return s
}

// Set implements ipvstest.Rig.
func (b *behaving) Set(s ipvs.State) error {
	_, err := b.nodes[0].daemon.ask(request{IPVS: &s})
	return err
}

// Close implements ipvstest.Rig.
func (b *behaving) Close() error { return nil }

// Restart implements ipvstest.Rig.
func (b *behaving) Restart(t *testing.T) {
	t.Helper()
	n := b.nodes[0]
	n.kill()
	b.start(n)
	o := b.overlayOf(n)
	b.ask(n, request{Overlay: &o})
}

// Call implements ipvstest.Rig.
func (b *behaving) Call(p ipvs.Protocol) (netip.Addr, error) {
	s, err := b.Open(p)
	if err != nil {
		return netip.Addr{}, err
	}
	defer s.Close()
	return s.Exchange()
}

// Open implements ipvstest.Rig.
func (b *behaving) Open(p ipvs.Protocol) (ipvstest.Session, error) {
	network := map[ipvs.Protocol]string{ipvs.TCP: "tcp4", ipvs.UDP: "udp4"}[p]
	s, err := dial(b.client.ns, network, "", fmt.Sprintf("%s:%d", vip, taskPort))
	return &answered{s, network, b}, err
}

// answered is a session that knows its backend's address.
type answered struct {
	*session
	network string
	rig     *behaving
}

// Exchange implements ipvstest.Session.
func (a *answered) Exchange() (netip.Addr, error) {
	if err := a.echo(a.network, 16); err != nil {
		return netip.Addr{}, err
	}
	for _, c := range a.rig.backends {
		if c.ns == a.server {
			return c.user, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%q answered: %w", a.server, os.ErrInvalid)
}
