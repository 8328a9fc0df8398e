package kernel

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	lvs "github.com/moby/ipvs"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
)

func TestBehaves(t *testing.T) {
	r := newRig(t)
	ipvstest.Behave(t, func(*testing.T) ipvstest.Rig { return r })
}

func both() map[string]ipvs.Protocol {
	return map[string]ipvs.Protocol{"tcp": ipvs.TCP, "udp": ipvs.UDP}
}

func (r *rig) set(s ipvs.State) {
	r.t.Helper()
	r.check(r.Set(s))
}

// The client's address stays, over IPv4 and IPv6, and its own service leads to itself, too.
func TestBackendsSeeTheClient(t *testing.T) {
	r := newRig(t)
	r.serve(r.client)
	s := r.State()
	six := s.Services[0]
	six.VIP, six.Backends = netip.MustParseAddr(vip6), nil
	own := s.Services[0]
	own.VIP, own.Backends = netip.MustParseAddr("10.1.0.101"), []ipvs.Backend{{Addr: r.client.addr}}
	for _, b := range r.backends {
		six.Backends = append(six.Backends, ipvs.Backend{Addr: b.addr6})
	}
	s.Services = append(s.Services, six, own)
	r.set(s)
	for name, p := range both() {
		for to, want := range map[string]netip.Addr{vip: r.client.addr, vip6: r.client.addr6, own.VIP.String(): r.client.addr} {
			c, err := r.dial(r.client, p, to)
			r.check(err)
			for range 3 {
				if _, err := c.Exchange(); err != nil || c.seen.Addr() != want {
					t.Errorf("%s to %s: the backend sees %s (%v), want %s", name, to, c.seen, err, want)
				}
			}
			c.Close()
		}
	}
}

func TestWithoutBackendIsRefused(t *testing.T) {
	r := newRig(t)
	s := r.State()
	s.Services[0].Backends = nil
	r.set(s)
	for name, p := range both() {
		// A datagram that the kernel drops on its way out is not permitted.
		if _, err := r.Call(p); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EPERM) {
			t.Errorf("%s: %v, want it refused at once", name, err)
		}
	}
}

// A container sees VIPs of its own networks only.
func TestOtherNetworksVIPsAreNotThere(t *testing.T) {
	r := newRig(t)
	s := r.State()
	s.Services[0].VNI++
	r.set(s)
	r.check(r.within(r.client, func() error {
		sp, err := openSpace()
		if err != nil {
			return err
		}
		defer sp.close()
		if len(sp.held)+len(sp.strays)+len(sp.marks) > 0 {
			t.Errorf("it holds %v, %v", sp.held, sp.marks)
		}
		return nil
	}))
}

func TestContainersComeAfterTheState(t *testing.T) {
	r := newRig(t)
	late := &container{ns: "none", addr: netip.MustParseAddr("10.1.0.20"), addr6: netip.MustParseAddr("fd00:1::20")}
	s := r.State()
	s.Clients = append(s.Clients, late.client())
	r.backends = append(r.backends, late)
	r.set(s)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	defer func() { stop(); <-ran }()
	made := r.container(20)
	r.mu.Lock() // Run looks at late, too
	*late = *made
	r.mu.Unlock()
	r.eventually("the new container is led", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		_, ok := r.visited[late.client().Addrs[0]]
		return ok
	})
	c, err := r.dial(late, ipvs.TCP, vip)
	r.check(err)
	defer c.Close()
	if _, err := c.Exchange(); err != nil {
		t.Error(err)
	}
}

func TestDriftIsNamedAndRepaired(t *testing.T) {
	r := newRig(t)
	r.set(r.State())
	for name, harm := range map[string]func(*space) error{
		"ipvsadm -C":     func(s *space) error { return s.ipvs.Flush() },
		"nft flush":      func(*space) error { return putTable(nil) },
		"other timeouts": func(s *space) error { return s.ipvs.SetConfig(&lvs.Config{TimeoutTCP: time.Minute}) },
		"a backend is gone": func(s *space) error {
			web := netip.MustParseAddr(vip)
			return s.ipvs.DelDestination(address(key{vip: web}, s.marks[web]), destination(r.backends[0].addr, 0))
		},
	} {
		r.check(r.within(r.client, func() error {
			s, err := openSpace()
			if err != nil {
				return err
			}
			defer s.close()
			return harm(s)
		}))
		if d, err := r.Damage(); err != nil || len(d) == 0 {
			t.Errorf("%s: noticed %v, %v", name, d, err)
		}
		r.set(r.State())
		if d, err := r.Damage(); err != nil || len(d) > 0 {
			t.Errorf("%s: left after the repair: %v, %v", name, d, err)
		}
		if _, err := r.Call(ipvs.TCP); err != nil {
			t.Errorf("%s: after the repair: %v", name, err)
		}
	}
	r.check(r.Remove())
	if _, err := r.Call(ipvs.TCP); err == nil {
		t.Error("the VIP answers though all was removed")
	}
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within a minute: %s", what)
		}
	}
}
