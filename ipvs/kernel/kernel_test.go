package kernel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	lvs "github.com/moby/ipvs"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
)

func TestBehaves(t *testing.T) {
	r := newRig(t)
	for name, to := range map[string]string{"IPv4": vip, "IPv6": vip6} {
		t.Run(name, func(t *testing.T) {
			r.vip = to
			ipvstest.Behave(t, func(*testing.T) ipvstest.Rig { return r })
		})
	}
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
	r.vip = vip6
	s.Services = append(s.Services, r.State().Services...)
	own := s.Services[0]
	own.VIP, own.Algorithm = netip.MustParseAddr(ownVIP), ipvs.RoundRobin
	own.Backends = []ipvs.Backend{{Addr: r.client.addr}, {Addr: r.backends[0].addr}}
	s.Services = append(s.Services, own)
	r.set(s)
	for name, p := range both() {
		for to, want := range map[string]netip.Addr{vip: r.client.addr, vip6: r.client.addr6, ownVIP: r.client.addr} {
			answered := map[netip.Addr]int{}
			for range 4 {
				c, err := r.dial(r.client, p, to)
				r.check(err)
				for range 3 {
					who, err := c.Exchange()
					if err != nil || c.seen.Addr() != want {
						t.Errorf("%s to %s: the backend sees %s (%v), want %s", name, to, c.seen, err, want)
					}
					answered[who]++
				}
				c.Close()
			}
			if to == ownVIP && (answered[r.client.addr] != 6 || answered[r.backends[0].addr] != 6) {
				t.Errorf("%s to its own service: %v answered, want itself and the other one 6 times each", name, answered)
			}
		}
	}
}

// entry is what IPVS tells of a connection.
type entry struct {
	state   string
	expires time.Duration
}

// entries are those of a container, by protocol.
func (r *rig) entries(c *container) map[string]entry {
	r.t.Helper()
	out := map[string]entry{}
	r.check(r.within(c, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/ip_vs_conn")
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 8 && f[0] != "Pro" {
				seconds, _ := strconv.Atoi(f[8])
				out[f[0]] = entry{f[7], time.Duration(seconds) * time.Second}
			}
		}
		return err
	}))
	return out
}

// Silent connections are kept for as long as the kernel can, and IPVS' switches are ours in each container.
func TestSilentConnectionsAreKept(t *testing.T) {
	r := newRig(t)
	r.set(r.State())
	for _, p := range both() {
		c, err := r.Open(p)
		r.check(err)
		defer c.Close()
		_, err = c.Exchange()
		r.check(err)
	}
	held := r.entries(r.client)
	if e := held["TCP"]; e.state != "ESTABLISHED" || e.expires < 19*24*time.Hour {
		t.Errorf("TCP: %+v, want it kept for 20 days", e)
	}
	if e := held["UDP"]; e.expires < 3*time.Minute || e.expires > 5*time.Minute {
		t.Errorf("UDP: %+v, want it kept for 5 minutes", e)
	}
	r.check(r.within(r.client, func() error {
		for name, want := range map[string]string{"conn_reuse_mode": "1", "expire_nodest_conn": "1", "expire_quiescent_template": "1"} {
			if got, err := os.ReadFile(switchPath(name)); err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s: %q, %v, want %s", name, got, err, want)
			}
		}
		return nil
	}))
	r.check(r.within(r.backends[0], func() error {
		if got, err := os.ReadFile(switchPath("expire_nodest_conn")); err != nil || strings.TrimSpace(string(got)) != "0" {
			t.Errorf("a namespace that holds nothing of ours: %q, %v", got, err)
		}
		return nil
	}))
}

// A client's port that is used anew is led anew.
func TestAPortIsUsedAnew(t *testing.T) {
	r := newRig(t)
	s := r.State()
	s.Services[0].Algorithm, s.Services[0].Backends = ipvs.RoundRobin, s.Services[0].Backends[:2]
	r.set(s)
	answered := map[netip.Addr]int{}
	for range 4 {
		c, err := r.dialFrom(r.client, &net.TCPAddr{Port: 40000}, ipvs.TCP, vip)
		r.check(err)
		who, err := c.Exchange()
		r.check(err)
		answered[who]++
		r.check(c.Conn.(*net.TCPConn).SetLinger(0)) // ends it by a reset, so that the port is free at once
		r.check(c.Close())
	}
	if len(answered) != 2 {
		t.Errorf("%v answered, want both in turn", answered)
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
		sp, err := openSpace(nil)
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

// What somebody changes is named and put right. A connection to a backend that IPVS was made to forget may end, by a
// reset; others go on.
func TestDriftIsNamedAndRepaired(t *testing.T) {
	r := newRig(t)
	r.set(r.State())
	for name, drift := range map[string]struct {
		harm   func(*space) error
		mayEnd bool
	}{
		"ipvsadm -C":     {harm: func(s *space) error { return s.ipvs.Flush() }, mayEnd: true},
		"nft flush":      {harm: func(*space) error { return putTable(nil) }},
		"other timeouts": {harm: func(s *space) error { return s.ipvs.SetConfig(&lvs.Config{TimeoutTCP: time.Minute}) }},
		"another switch": {harm: func(*space) error { return os.WriteFile(switchPath("conn_reuse_mode"), []byte("0"), 0) }},
		"no backends": {mayEnd: true, harm: func(s *space) (err error) {
			web := netip.MustParseAddr(vip)
			for _, b := range r.backends {
				err = errors.Join(err, s.ipvs.DelDestination(address(key{vip: web}, s.marks[web]), destination(b.addr, 0)))
			}
			return err
		}},
	} {
		open, err := r.Open(ipvs.TCP)
		r.check(err)
		with, err := open.Exchange()
		r.check(err)
		r.check(r.within(r.client, func() error {
			s, err := openSpace(nil)
			if err != nil {
				return err
			}
			defer s.close()
			return drift.harm(s)
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
		if who, err := open.Exchange(); (err != nil || who != with) && !(drift.mayEnd && errors.Is(err, syscall.ECONNRESET)) {
			t.Errorf("%s: on a connection to %v that was there before %v answers, %v", name, with, who, err)
		}
		open.Close()
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
