package dataplane

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
	"github.com/meshd/meshd/ipvs/kernel"
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

// With IPVS, VIPs are led inside containers, and published ports as ever.
func TestVIPsByIPVS(t *testing.T) {
	if err := kernel.Supported(); err != nil {
		t.Skipf("SKIPPED: %v; make test-vm runs it on kernels that have it", err)
	}
	b := newBehaving(t, "DATAPLANE_TEST_IPVS=1")
	for _, c := range b.tasks {
		b.live(c)
	}
	b.settle()
	b.out[b.client] = true
	b.settle()
	for _, network := range []string{"tcp4", "udp4"} {
		from := map[string]int{}
		for range 8 {
			s, err := call(b.client.ns, network, fmt.Sprintf("%s:%d", vip, taskPort), 8000)
			b.check(err)
			if s.seen.Addr() != b.client.user {
				t.Fatalf("%s: the task sees %v, not the client's %v", network, s.seen, b.client.user)
			}
			from[s.server]++
		}
		if len(from) != 4 || from[b.backends[0].ns] != 2 {
			t.Errorf("%s: %v, want 2 of each", network, from)
		}
		s, err := call(b.lab.client, network, b.nodes[0].published(), 8000)
		b.check(err)
		if s.seen.Addr().String() != clientAddr {
			t.Errorf("%s, published: the task sees %v, not the client's %s", network, s.seen, clientAddr)
		}
	}
	b.nodes[0].kill()
	_, err := call(b.client.ns, "tcp4", fmt.Sprintf("%s:%d", vip, taskPort), 16)
	b.check(err)
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
