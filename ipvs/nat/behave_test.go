package nat

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
)

// behaving is an ipvstest.Rig over the virtual address of one IP version.
type behaving struct {
	*rig
	service ipvs.Service
}

func TestBehaves(t *testing.T) {
	r := newRig(t)
	for _, s := range state(nil).Services {
		if s.Published() {
			continue
		}
		t.Run(s.VIP.String(), func(t *testing.T) {
			ipvstest.Behave(t, func(*testing.T) ipvstest.Rig { return behaving{r, s} }, ipvs.Maglev)
		})
	}
}

// State implements ipvstest.Rig.
func (b behaving) State() ipvs.State {
	s := b.service
	s.Backends = slices.Clone(s.Backends)
	return ipvs.State{MeshVNI: 1, Services: []ipvs.Service{s}}
}

// Set implements ipvstest.Rig.
func (b behaving) Set(s ipvs.State) error {
	return within(b.node, func() error { return b.b.Set(s) })
}

// Close implements ipvstest.Rig.
func (b behaving) Close() error { return b.b.Close() }

// Restart implements ipvstest.Rig.
func (b behaving) Restart(*testing.T) { b.b = New() }

// Call implements ipvstest.Rig.
func (b behaving) Call(p ipvs.Protocol) (netip.Addr, error) {
	s, err := b.Open(p)
	if err != nil {
		return netip.Addr{}, err
	}
	defer s.Close()
	return s.Exchange()
}

// Open implements ipvstest.Rig.
func (b behaving) Open(p ipvs.Protocol) (ipvstest.Session, error) {
	c, err := b.dial(b.ns(client), map[ipvs.Protocol]string{ipvs.TCP: "tcp", ipvs.UDP: "udp"}[p], netip.AddrPortFrom(b.service.VIP, 80))
	return session{c, b.service.Backends}, err
}

type session struct {
	net.Conn
	backends []ipvs.Backend
}

// Exchange implements ipvstest.Session.
func (s session) Exchange() (netip.Addr, error) {
	n, _, err := ask(s.Conn)
	if err != nil {
		return netip.Addr{}, err
	}
	return s.backends[n-firstBackend].Addr, nil
}
