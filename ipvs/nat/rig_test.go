package nat

import (
	"bufio"
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

// rig is a node between a client and four backends, each of which is a namespace; the third byte
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

const client, firstBackend, lastBackend = 1, 2, 5

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

// many is often enough for four backends to all be chosen: (3/4)^80 is one in 1e10.
const many = 80

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
