package ipvstest

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/meshd/meshd/ipvs"
)

// ErrRefused is what a client of a FakeRig sees where nobody serves, or its backend is gone.
var ErrRefused = errors.New("refused")

// FakeRig is a Rig over a Fake: the slow, obvious way to lead connections, that others are measured by.
type FakeRig struct {
	*Fake
	turn  int
	stuck netip.Addr // whom affinity leads the one client to
}

// State has a VIP with four backends.
func (f *FakeRig) State() ipvs.State {
	s := ipvs.Service{Key: ipvs.Key{VNI: 1, VIP: netip.MustParseAddr("10.1.0.100")}, Name: "web"}
	for i := range byte(4) {
		s.Backends = append(s.Backends, ipvs.Backend{Addr: netip.AddrFrom4([4]byte{10, 1, 0, 2 + i})})
	}
	return ipvs.State{Services: []ipvs.Service{s}}
}

// Restart changes nothing.
func (f *FakeRig) Restart(*testing.T) {}

// Call opens, exchanges and closes.
func (f *FakeRig) Call(p ipvs.Protocol) (netip.Addr, error) {
	s, err := f.Open(p)
	if err != nil {
		return netip.Addr{}, err
	}
	return s.Exchange()
}

// Open chooses a backend.
func (f *FakeRig) Open(p ipvs.Protocol) (Session, error) {
	with, ok := f.choose()
	if !ok {
		return nil, ErrRefused
	}
	return &fakeSession{f, p, with}, nil
}

func (f *FakeRig) service() ipvs.Service {
	vip := f.State().Services[0].VIP
	held, _ := f.Held()
	i := slices.IndexFunc(held.Services, func(s ipvs.Service) bool { return s.VIP == vip })
	if i < 0 {
		return ipvs.Service{}
	}
	return held.Services[i]
}

// choose takes turns, each backend as often as it weighs.
func (f *FakeRig) choose() (netip.Addr, bool) {
	s := f.service()
	var serving []netip.Addr
	for _, b := range s.Backends {
		if !b.Draining {
			serving = append(serving, slices.Repeat([]netip.Addr{b.Addr}, int(b.Weight))...)
		}
	}
	if len(serving) == 0 {
		return netip.Addr{}, false
	}
	if s.Affinity == 0 || !slices.Contains(serving, f.stuck) {
		f.turn++
		f.stuck = serving[f.turn%len(serving)]
	}
	return f.stuck, true
}

type fakeSession struct {
	rig      *FakeRig
	protocol ipvs.Protocol
	with     netip.Addr
}

// Exchange stays with a backend that is there; datagrams that it is gone or away for go to another.
func (s *fakeSession) Exchange() (netip.Addr, error) {
	there := slices.ContainsFunc(s.rig.service().Backends, func(b ipvs.Backend) bool {
		return b.Addr == s.with && (s.protocol == ipvs.TCP || !b.Away)
	})
	if there {
		return s.with, nil
	}
	if s.protocol == ipvs.TCP {
		return netip.Addr{}, ErrRefused
	}
	next, ok := s.rig.choose()
	if !ok {
		return netip.Addr{}, ErrRefused
	}
	s.with = next
	return next, nil
}

func (s *fakeSession) Close() error { return nil }
