package nat

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
)

// within runs f on a thread in a network namespace; sockets that f opens stay there.
func within(ns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		file, err := os.Open("/run/netns/" + ns)
		if err != nil {
			done <- err
			return
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("setns %s: %w", ns, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// rig is a node between a client and three backends, each of which is a namespace; the last byte
// of an address is the namespace's number.
type rig struct {
	t    *testing.T
	node string
	b    *Balancer
}

func (r *rig) sh(args ...string) {
	r.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (r *rig) ns(n int) string { return fmt.Sprintf("%s-%d", r.node, n) }

func addr4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(n), 2}) }

func addr6(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd09:%x::2", n)) }

const client, firstBackend, lastBackend = 1, 2, 4

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for network namespaces")
	}
	r := &rig{t: t, node: fmt.Sprintf("nat%d", os.Getpid()), b: New()}
	add := func(ns string) {
		r.sh("ip", "netns", "add", ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
		r.sh("ip", "-n", ns, "link", "set", "lo", "up")
		r.sh("ip", "netns", "exec", ns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
	}
	add(r.node)
	r.sh("ip", "netns", "exec", r.node, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	for n := client; n <= lastBackend; n++ {
		ns, dev := r.ns(n), fmt.Sprintf("to%d", n)
		add(ns)
		r.sh("ip", "-n", r.node, "link", "add", dev, "type", "veth", "peer", "name", "eth0", "netns", ns)
		for _, a := range []netip.Addr{addr4(n), addr6(n)} {
			gateway := a.Prev()
			bits := fmt.Sprint(a.BitLen() - a.BitLen()/4) // 24, 96
			nodad := []string{"nodad"}[:a.BitLen()/128]
			r.sh(append([]string{"ip", "-n", r.node, "addr", "add", gateway.String() + "/" + bits, "dev", dev}, nodad...)...)
			r.sh(append([]string{"ip", "-n", ns, "addr", "add", a.String() + "/" + bits, "dev", "eth0"}, nodad...)...)
			r.sh("ip", "-n", r.node, "link", "set", dev, "up")
			r.sh("ip", "-n", ns, "link", "set", "eth0", "up")
			r.sh("ip", "-n", ns, "route", "add", "default", "via", gateway.String())
		}
		r.serve(n)
	}
	return r
}

// serve says on port 80, TCP and UDP, whose namespace it is and who asks.
func (r *rig) serve(n int) {
	r.t.Helper()
	err := within(r.ns(n), func() error {
		l, err := net.Listen("tcp", ":80")
		if err != nil {
			return err
		}
		r.t.Cleanup(func() { _ = l.Close() })
		u, err := net.ListenPacket("udp", ":80")
		if err != nil {
			return err
		}
		r.t.Cleanup(func() { _ = u.Close() })
		go answerTCP(l, n)
		go answerUDP(u, n)
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func answerTCP(l net.Listener, n int) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for lines := bufio.NewScanner(c); lines.Scan(); {
				fmt.Fprintf(c, "%d %s\n", n, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
			}
		}()
	}
}

func answerUDP(u net.PacketConn, n int) {
	buf := make([]byte, 100)
	for {
		_, from, err := u.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = u.WriteTo(fmt.Appendf(nil, "%d %s\n", n, from.(*net.UDPAddr).AddrPort().Addr().Unmap()), from)
	}
}

// wait bounds every call.
const wait = 20 * time.Second

func (r *rig) dial(from string, network string, to netip.AddrPort) (c net.Conn, err error) {
	err = within(from, func() error { c, err = net.DialTimeout(network, to.String(), wait); return err })
	return c, err
}

// ask gives the number of who answers on a connection, and whom it took us for.
func ask(c net.Conn) (n int, seen string, err error) {
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err = c.Write([]byte("who\n")); err != nil {
		return 0, "", err
	}
	buf := make([]byte, 100)
	got, err := c.Read(buf)
	if err != nil {
		return 0, "", err
	}
	_, err = fmt.Sscan(string(buf[:got]), &n, &seen)
	return n, seen, err
}

// call asks once on a connection of its own, from the client.
func (r *rig) call(network string, to netip.AddrPort) (int, string, error) {
	c, err := r.dial(r.ns(client), network, to)
	if err != nil {
		return 0, "", err
	}
	defer c.Close()
	return ask(c)
}

func (r *rig) set(s ipvs.State) {
	r.t.Helper()
	if err := within(r.node, func() error { return r.b.Set(s) }); err != nil {
		r.t.Fatal(err)
	}
}

// state publishes a service on port 8080 for TCP and UDP, and by a virtual address, for both IP versions.
func state(change func(*ipvs.Service)) ipvs.State {
	s := ipvs.State{MeshVNI: 1}
	for n := client; n <= lastBackend; n++ {
		s.NodeAddrs = append(s.NodeAddrs, addr4(n).Prev(), addr6(n).Prev())
	}
	for _, six := range []bool{false, true} {
		var backends []ipvs.Backend
		for n := firstBackend; n <= lastBackend; n++ {
			b := ipvs.Backend{Addr: addr4(n), Local: n == firstBackend}
			if six {
				b.Addr = addr6(n)
			}
			backends = append(backends, b)
		}
		vip, everywhere := netip.MustParseAddr("10.99.0.1"), netip.Addr{}
		if six {
			vip, everywhere = netip.MustParseAddr("fd99::1"), netip.IPv6Unspecified()
		}
		services := []ipvs.Service{{Key: ipvs.Key{VNI: 2, VIP: vip}, Backends: backends}}
		for _, p := range []ipvs.Protocol{ipvs.TCP, ipvs.UDP} {
			ports := slices.Clone(backends)
			for i := range ports {
				ports[i].Port = 80
			}
			services = append(services, ipvs.Service{Key: ipvs.Key{VNI: 1, VIP: everywhere, Port: 8080, Protocol: p}, Backends: ports})
		}
		for _, svc := range services {
			svc.Name = "web"
			if change != nil {
				change(&svc)
			}
			s.Services = append(s.Services, svc)
		}
	}
	return s
}

func ways() map[string]netip.AddrPort {
	return map[string]netip.AddrPort{
		"virtual address":              netip.MustParseAddrPort("10.99.0.1:80"),
		"virtual address, IPv6":        netip.MustParseAddrPort("[fd99::1]:80"),
		"published port":               netip.AddrPortFrom(addr4(client).Prev(), 8080),
		"published port, IPv6":         netip.AddrPortFrom(addr6(client).Prev(), 8080),
		"published port, other device": netip.AddrPortFrom(addr4(lastBackend).Prev(), 8080),
	}
}

// many is often enough for three backends to all be chosen: (2/3)^60 is one in 4e10.
const many = 60

func (r *rig) chosen(network string, to netip.AddrPort) map[int]int {
	r.t.Helper()
	out := map[int]int{}
	for range many {
		n, _, err := r.call(network, to)
		if err != nil {
			r.t.Fatalf("%s %s: %v", network, to, err)
		}
		out[n]++
	}
	return out
}

func TestConforms(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for network namespaces")
	}
	ipvstest.Conform(t, func(t *testing.T) func() ipvstest.Holder {
		runtime.LockOSThread() // never unlocked: the thread ends with the test
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		return func() ipvstest.Holder { return New() }
	})
}

func TestConnectionsAreSpreadAndSeeTheirClient(t *testing.T) {
	r := newRig(t)
	r.set(state(nil))
	for what, to := range ways() {
		for _, network := range []string{"tcp", "udp"} {
			n, seen, err := r.call(network, to)
			if want := addr4(client).String(); to.Addr().Is4() && seen != want || to.Addr().Is6() && seen != addr6(client).String() || err != nil {
				t.Errorf("%s, %s: %d takes the client for %s, %v", what, network, n, seen, err)
			}
		}
		if got := r.chosen("tcp", to); len(got) != 3 {
			t.Errorf("%s: connections went to %v", what, got)
		}
	}
	r.set(state(func(s *ipvs.Service) { s.Algorithm = ipvs.RoundRobin }))
	if got := r.chosen("tcp", ways()["published port"]); got[2] != many/3 || got[3] != many/3 || got[4] != many/3 {
		t.Errorf("in turn: %v", got)
	}
	r.set(state(func(s *ipvs.Service) { s.Affinity = time.Minute }))
	if got := r.chosen("tcp", ways()["virtual address"]); len(got) != 1 {
		t.Errorf("one client: %v", got)
	}
	r.set(state(func(s *ipvs.Service) { s.Backends[0].Weight = 200; s.Algorithm = ipvs.RoundRobin }))
	if got := r.chosen("tcp", ways()["virtual address"]); got[2] < many-2 {
		t.Errorf("one weighs 200 of 202: %v", got)
	}
}

func TestTheNodeAndItsBackendsMayCall(t *testing.T) {
	r := newRig(t)
	r.set(state(func(s *ipvs.Service) { s.PreferLocal = true }))
	for what, to := range ways() {
		for who, from := range map[string]string{"the node": r.node, "the only backend that is asked": r.ns(firstBackend)} {
			if from == r.node && to.Port() == 80 {
				continue // nodes have no way to virtual addresses
			}
			c, err := r.dial(from, "tcp", to)
			if err != nil {
				t.Errorf("%s calls %s: %v", who, what, err)
				continue
			}
			if n, _, err := ask(c); n != firstBackend || err != nil {
				t.Errorf("%s calls %s: %d, %v", who, what, n, err)
			}
			_ = c.Close()
		}
	}
}

func TestWhoDrainsKeepsItsConnections(t *testing.T) {
	r := newRig(t)
	for what, gone := range map[string]func(*ipvs.Service){
		"draining": func(s *ipvs.Service) { s.Backends[0].Draining = true },
		"ejected":  func(s *ipvs.Service) { s.Backends[0].Ejected = true },
		"removed":  func(s *ipvs.Service) { s.Backends = s.Backends[1:] },
	} {
		r.set(state(func(s *ipvs.Service) { s.Backends = s.Backends[:1] }))
		to := ways()["virtual address"]
		c, err := r.dial(r.ns(client), "tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		before, _, err := ask(c)
		r.set(state(gone))
		after, _, aerr := ask(c)
		if err := errors.Join(err, aerr); err != nil || before != firstBackend || after != firstBackend {
			t.Errorf("%s: the connection went to %d, then to %d, %v", what, before, after, err)
		}
		_ = c.Close()
		if got := r.chosen("tcp", to); got[firstBackend] != 0 {
			t.Errorf("%s: new connections: %v", what, got)
		}
	}
}

func TestUDPFlowsLeaveWhoIsGone(t *testing.T) {
	r := newRig(t)
	for what, gone := range map[string]func(*ipvs.Service){
		"away":    func(s *ipvs.Service) { s.Backends[0].Draining, s.Backends[0].Away = true, true },
		"removed": func(s *ipvs.Service) { s.Backends = s.Backends[1:] },
	} {
		for _, way := range []string{"published port", "published port, IPv6"} {
			r.set(state(func(s *ipvs.Service) { s.Backends = s.Backends[:1] }))
			c, err := r.dial(r.ns(client), "udp", ways()[way])
			if err != nil {
				t.Fatal(err)
			}
			before, _, err := ask(c)
			r.set(state(gone))
			after, _, aerr := ask(c)
			if err := errors.Join(err, aerr); err != nil || before != firstBackend || after == firstBackend {
				t.Errorf("%s, %s: the flow went to %d, then to %d, %v", what, way, before, after, err)
			}
			_ = c.Close()
		}
	}
}

func TestNobodyServes(t *testing.T) {
	r := newRig(t)
	for what, change := range map[string]func(*ipvs.Service){
		"no backend": func(s *ipvs.Service) { s.Backends = nil },
		"none here":  func(s *ipvs.Service) { s.Backends, s.LocalOnly = s.Backends[1:], s.Published() },
	} {
		r.set(state(change))
		if _, _, err := r.call("tcp", ways()["published port"]); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v", what, err)
		}
	}
	r.set(ipvs.State{})
	if err := within(r.node, func() error {
		out, err := exec.Command("nft", "list", "tables").Output()
		if strings.Contains(string(out), Table) {
			t.Errorf("left: %s", out)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestFlushedRulesAreMissed(t *testing.T) {
	r := newRig(t)
	held := func() (n int) {
		if err := within(r.node, func() error {
			s, err := r.b.Held()
			n = len(s.Services)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	r.set(state(nil))
	if held() != 6 {
		t.Fatalf("%d services are held", held())
	}
	for _, harm := range []string{"flush ruleset", "flush chain inet " + Table + " prerouting", "delete table inet " + Table} {
		r.sh("ip", "netns", "exec", r.node, "nft", harm)
		if held() != 0 {
			t.Errorf("%s is not noticed", harm)
		}
		r.set(state(nil))
		if _, _, err := r.call("tcp", ways()["published port"]); err != nil || held() != 6 {
			t.Errorf("after %q and its repair: %v", harm, err)
		}
	}
}
