package kernel

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
)

const (
	network = 4097
	vip     = "10.1.0.100"
	vip6    = "fd00:1::100"
	ownVIP  = "10.1.0.101"
	port    = 7000
	// A container that answers nobody takes as long as this to be given up.
	patience = 20 * time.Second
)

// rig is a client and four backends on one bridge, which stands for an overlay of any kind. What is not led gets to the hub, which has the
// VIPs and refuses all, as nodes do.
type rig struct {
	*Balancer
	t        *testing.T
	vip      string // whose service it tests
	hub      string
	client   *container
	backends []*container
}

type container struct {
	ns          string
	addr, addr6 netip.Addr
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for network namespaces")
	}
	if err := Supported(); err != nil {
		t.Skipf("SKIPPED: %v; make test-vm runs it on kernels that have it", err)
	}
	r := &rig{t: t, vip: vip}
	r.hub = r.namespace("hub")
	r.sh("ip", "-n", r.hub, "link", "add", "br0", "type", "bridge")
	for _, a := range []string{vip + "/16", ownVIP + "/16", vip6 + "/64"} {
		r.sh("ip", "-n", r.hub, "addr", "add", a, "dev", "br0", "nodad")
	}
	r.sh("ip", "-n", r.hub, "link", "set", "br0", "up")
	r.client = r.container(9)
	for i := range byte(4) {
		c := r.container(2 + i)
		r.serve(c)
		r.backends = append(r.backends, c)
	}
	r.start()
	return r
}

func (r *rig) start() {
	r.t.Helper()
	b, err := New(Config{Namespace: r.open, Logger: slog.New(slog.DiscardHandler)})
	r.check(err)
	r.Balancer = b
}

// Restart implements ipvstest.Rig.
func (r *rig) Restart(*testing.T) { r.start() }

// open finds containers as an overlay does.
func (r *rig) open(a ipvs.ClientAddr) (*os.File, error) {
	for _, c := range append([]*container{r.client}, r.backends...) {
		if c.addr == a.Addr {
			f, err := os.Open(filepath.Join("/run/netns", c.ns))
			if errors.Is(err, os.ErrNotExist) {
				return nil, nil
			}
			return f, err
		}
	}
	return nil, nil
}

func (r *rig) namespace(kind string) string {
	r.t.Helper()
	ns := fmt.Sprintf("lvs%d-%s", os.Getpid(), kind)
	r.sh("ip", "netns", "add", ns)
	r.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	r.sh("ip", "-n", ns, "link", "set", "lo", "up")
	return ns
}

func (r *rig) container(i byte) *container {
	r.t.Helper()
	c := &container{
		ns:   r.namespace(fmt.Sprint("c", i)),
		addr: netip.AddrFrom4([4]byte{10, 1, 0, i}), addr6: netip.MustParseAddr(fmt.Sprintf("fd00:1::%d", i)),
	}
	up := fmt.Sprint("p", i)
	r.sh("ip", "-n", r.hub, "link", "add", up, "type", "veth", "peer", "name", "eth0", "netns", c.ns)
	r.sh("ip", "-n", r.hub, "link", "set", up, "master", "br0", "up")
	r.sh("ip", "-n", c.ns, "addr", "add", c.addr.String()+"/16", "dev", "eth0")
	r.sh("ip", "-n", c.ns, "addr", "add", c.addr6.String()+"/64", "dev", "eth0", "nodad")
	r.sh("ip", "-n", c.ns, "link", "set", "eth0", "up")
	return c
}

func (r *rig) within(c *container, f func() error) error {
	ns, err := os.Open(filepath.Join("/run/netns", c.ns))
	if err != nil {
		return err
	}
	defer ns.Close()
	return inside(ns, f)
}

// serve has a container answer each line or datagram with its own address and the client's.
func (r *rig) serve(c *container) {
	r.t.Helper()
	var listener net.Listener
	var packets net.PacketConn
	r.check(r.within(c, func() (err error) {
		if listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		packets, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	}))
	r.t.Cleanup(func() { _, _ = listener.Close(), packets.Close() })
	answer := func(client net.Addr) []byte {
		seen, _ := netip.ParseAddrPort(client.String())
		return fmt.Appendf(nil, "%s %s\n", c.address(!seen.Addr().Unmap().Is4()), client)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for b := make([]byte, 1); ; {
					if _, err := io.ReadFull(conn, b); err != nil {
						return
					}
					_, _ = conn.Write(answer(conn.RemoteAddr()))
				}
			}()
		}
	}()
	go func() {
		for b := make([]byte, 100); ; {
			_, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(answer(from), from)
		}
	}()
}

// State implements ipvstest.Rig.
func (r *rig) State() ipvs.State {
	s := ipvs.Service{Key: ipvs.Key{VNI: network, VIP: netip.MustParseAddr(r.vip)}, Name: "web"}
	for _, b := range r.backends {
		s.Backends = append(s.Backends, ipvs.Backend{Addr: b.address(s.VIP.Is6())})
	}
	return ipvs.State{Services: []ipvs.Service{s}, Clients: []ipvs.Client{r.client.client()}}
}

func (c *container) address(six bool) netip.Addr {
	if six {
		return c.addr6
	}
	return c.addr
}

func (c *container) client() ipvs.Client {
	return ipvs.Client{Addrs: []ipvs.ClientAddr{{VNI: network, Addr: c.addr}, {VNI: network, Addr: c.addr6}}}
}

// Call implements ipvstest.Rig.
func (r *rig) Call(p ipvs.Protocol) (netip.Addr, error) {
	s, err := r.dial(r.client, p, r.vip)
	if err != nil {
		return netip.Addr{}, err
	}
	defer s.Close()
	return s.Exchange()
}

// Open implements ipvstest.Rig.
func (r *rig) Open(p ipvs.Protocol) (ipvstest.Session, error) { return r.dial(r.client, p, r.vip) }

// session is a client's connection; seen is the address that the backend sees.
type session struct {
	net.Conn
	seen netip.AddrPort
}

func (r *rig) dial(c *container, p ipvs.Protocol, to string) (*session, error) {
	return r.dialFrom(c, nil, p, to)
}

// dialFrom takes a source of the container's; nil: any.
func (r *rig) dialFrom(c *container, from net.Addr, p ipvs.Protocol, to string) (*session, error) {
	s := &session{}
	d := net.Dialer{Timeout: patience, LocalAddr: from}
	err := r.within(c, func() (err error) {
		kind := "tcp"
		if p == ipvs.UDP {
			kind = "udp"
		}
		s.Conn, err = d.Dial(kind, net.JoinHostPort(to, fmt.Sprint(port)))
		return err
	})
	return s, err
}

// Exchange implements ipvstest.Session.
func (s *session) Exchange() (netip.Addr, error) {
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return netip.Addr{}, err
	}
	if _, err := s.Write([]byte{'x'}); err != nil {
		return netip.Addr{}, err
	}
	b := make([]byte, 100)
	n, err := s.Read(b)
	if err != nil {
		return netip.Addr{}, err
	}
	who, seen, _ := strings.Cut(strings.TrimSpace(string(b[:n])), " ")
	if s.seen, err = netip.ParseAddrPort(seen); err != nil {
		return netip.Addr{}, err
	}
	s.seen = netip.AddrPortFrom(s.seen.Addr().Unmap(), s.seen.Port())
	return netip.ParseAddr(who)
}

func (r *rig) sh(name string, args ...string) {
	r.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		r.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func (r *rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}
