package dataplane

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/overlay"
	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/wireguard"
	machines "github.com/meshd/meshd/test/lab" // lab is taken
)

const (
	meshVNI    = 4096
	userVNI    = 4097
	vip        = "10.0.1.200"
	clientAddr = "192.0.2.100"
	clientSix  = "2001:db8::100"
	published  = 8080
	// taskPort is what servers listen on: another number, so that a port that was
	// not translated is noticed.
	taskPort = 7000
)

// lab is two nodes with containers, and a client outside, on one bridge.
type lab struct {
	t      *testing.T
	seq    int
	hub    string
	client string
	nodes  []*node
	tasks  []*task
	env    []string
	// services tells which tasks balance, and how.
	out map[*task]bool
	// spread may change how the VIP's connections are spread.
	spread func(*ipvs.Service)
	// change may change what a node is to balance.
	change func(*node, *ipvs.State)
	// dual gives the mesh network IPv6, too; encrypted has WireGuard carry it.
	dual, encrypted bool
}

type node struct {
	*daemon
	ns, dir   string
	addr, six netip.Addr
	// keys are its WireGuard keys as others know them.
	keys []wireguard.PublicKey
}

// task is a container on the mesh network and on a user network.
type task struct {
	ns              string
	node            *node
	mesh, six, user netip.Addr // six: on the mesh network, of labs that are dual
	draining        bool
}

func newLab(t *testing.T, env ...string) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for network namespaces")
	}
	l := &lab{t: t, env: env, out: map[*task]bool{}}
	l.hub = l.namespace("hub")
	l.sh("ip", "-n", l.hub, "link", "add", "br0", "type", "bridge")
	l.sh("ip", "-n", l.hub, "link", "set", "br0", "up")
	l.client = l.namespace("client")
	l.plug(l.client, clientAddr, clientSix)
	for i := range byte(2) {
		n := &node{ns: l.namespace("n"), dir: t.TempDir(), addr: netip.AddrFrom4([4]byte{192, 0, 2, i + 1}), six: netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: i + 1})}
		l.plug(n.ns, n.addr.String(), n.six.String())
		l.nodes = append(l.nodes, n)
		l.check(datapath.Mount(filepath.Join(n.dir, "bpf"))) // here, not by the daemon, which has its mounts for itself
		t.Cleanup(func() {
			n.daemon.kill()
			_ = exec.Command("ip", "-n", n.ns, "link", "del", wireguard.DeviceName(0)).Run() // which ends its process
			_ = unix.Unmount(filepath.Join(n.dir, "bpf"), unix.MNT_DETACH)
		})
		l.start(n)
	}
	return l
}

func (l *lab) start(n *node) {
	l.t.Helper()
	d, err := startDaemon(l.t, n.ns, n.dir, l.env)
	l.check(err)
	n.daemon = d
}

func (l *lab) ask(n *node, q request) response {
	l.t.Helper()
	r, err := n.daemon.ask(q)
	l.check(err)
	return r
}

// task starts a container; tasks are numbered from 2 on, over both networks.
func (l *lab) task(n *node) *task {
	l.t.Helper()
	i := byte(len(l.tasks) + 2)
	c := &task{ns: l.namespace("c"), node: n, mesh: netip.AddrFrom4([4]byte{10, 255, 0, i}), user: netip.AddrFrom4([4]byte{10, 0, 1, i})}
	mesh := []netip.Prefix{netip.PrefixFrom(c.mesh, 16)}
	if l.dual {
		c.six = netip.AddrFrom16([16]byte{0xfd, 15: i})
		mesh = append(mesh, netip.PrefixFrom(c.six, 64))
	}
	for dev, a := range map[string]overlay.Attachment{
		"eth0": {NetworkID: "mesh", VNI: meshVNI, Mesh: true, Addrs: mesh, MAC: overlay.MACFor(c.mesh)},
		"eth1": {NetworkID: "user", VNI: userVNI, Addrs: []netip.Prefix{netip.PrefixFrom(c.user, 24)}, MAC: overlay.MACFor(c.user)},
	} {
		a.ID = fmt.Sprintf("%s%02x%010d", dev, i, os.Getpid())
		peer := l.ask(n, request{Attach: &a}).Peer
		l.sh("ip", "-n", n.ns, "link", "set", peer, "netns", c.ns)
		l.sh("ip", "-n", c.ns, "link", "set", peer, "name", dev)
		for _, addr := range a.Addrs {
			l.sh("ip", "-n", c.ns, "addr", "add", addr.String(), "dev", dev, "nodad")
		}
		l.sh("ip", "-n", c.ns, "link", "set", dev, "up")
	}
	l.sh("ip", "-n", c.ns, "route", "add", "default", "via", "10.255.0.1")
	if l.dual {
		l.sh("ip", "-n", c.ns, "route", "add", "default", "via", "fd00::1")
	}
	l.tasks = append(l.tasks, c)
	return c
}

// settle tells every node everything: tasks in l.out serve nobody.
func (l *lab) settle() {
	l.t.Helper()
	for _, n := range l.nodes {
		o, b := l.overlayOf(n), l.balanceOf(n)
		l.ask(n, request{Overlay: &o})
		l.ask(n, request{IPVS: &b})
	}
	if l.encrypted && l.nodes[0].keys == nil {
		for _, n := range l.nodes { // they have made some
			n.keys = l.ask(n, request{Keys: true}).Keys
		}
		l.settle()
	}
}

func (l *lab) overlayOf(n *node) overlay.State {
	mesh := overlay.Network{ID: "mesh", Name: "ingress", VNI: meshVNI, Mesh: true, Subnets: []netip.Prefix{netip.MustParsePrefix("10.255.0.0/16")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.255.0.1")}}
	if l.dual {
		mesh.Subnets = append(mesh.Subnets, netip.MustParsePrefix("fd00::/64"))
		mesh.Gateways = append(mesh.Gateways, netip.MustParseAddr("fd00::1"))
	}
	if l.encrypted {
		mesh.Transport = overlay.TransportWireGuard
	}
	s := overlay.State{ID: n.ns, Local: n.addr, Networks: []overlay.Network{mesh,
		{ID: "user", Name: "user", VNI: userVNI, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")},
			Gateways: []netip.Addr{netip.MustParseAddr("10.0.1.1")}},
	}}
	for _, peer := range l.nodes {
		if peer != n {
			s.Peers = append(s.Peers, overlay.Peer{ID: peer.ns, Addr: peer.addr, Transport: overlay.TransportVXLAN, Keys: peer.keys})
		}
	}
	for _, c := range l.tasks {
		if c.node != n {
			s.Endpoints = append(s.Endpoints, overlay.Endpoint{VNI: meshVNI, Addr: c.mesh, Node: c.node.addr},
				overlay.Endpoint{VNI: userVNI, Addr: c.user, Node: c.node.addr})
			if l.dual {
				s.Endpoints = append(s.Endpoints, overlay.Endpoint{VNI: meshVNI, Addr: c.six, Node: c.node.addr})
			}
		}
	}
	return s
}

func (l *lab) balanceOf(n *node) ipvs.State {
	web := ipvs.Service{Name: "web", Key: ipvs.Key{VNI: userVNI, VIP: netip.MustParseAddr(vip)}}
	tcp := ipvs.Service{Name: "web", Key: ipvs.Key{VNI: meshVNI, Port: published, Protocol: ipvs.TCP}}
	udp := ipvs.Service{Name: "web", Key: ipvs.Key{VNI: meshVNI, Port: published, Protocol: ipvs.UDP}}
	var clients []ipvs.Client
	for _, c := range l.tasks {
		if c.node == n {
			clients = append(clients, ipvs.Client{Addrs: []ipvs.ClientAddr{{VNI: meshVNI, Addr: c.mesh}, {VNI: userVNI, Addr: c.user}}})
		}
		if l.out[c] {
			continue
		}
		web.Backends = append(web.Backends, ipvs.Backend{Addr: c.user, Draining: c.draining})
		tcp.Backends = append(tcp.Backends, ipvs.Backend{Addr: c.mesh, Port: taskPort, Draining: c.draining})
		udp.Backends = append(udp.Backends, ipvs.Backend{Addr: c.mesh, Port: taskPort, Draining: c.draining})
	}
	if l.spread != nil {
		l.spread(&web)
	}
	s := ipvs.State{MeshVNI: meshVNI, NodeAddrs: []netip.Addr{n.addr}, Services: []ipvs.Service{web, tcp, udp}, Clients: clients}
	if l.dual {
		s.NodeAddrs = append(s.NodeAddrs, n.six)
		s.Services = append(s.Services, l.bySix(tcp), l.bySix(udp))
	}
	if l.change != nil {
		l.change(n, &s)
	}
	return s
}

// bySix is a published port as IPv6 clients have it.
func (l *lab) bySix(svc ipvs.Service) ipvs.Service {
	svc.VIP, svc.Backends = netip.IPv6Unspecified(), slices.Clone(svc.Backends)
	for i, b := range svc.Backends {
		of := slices.IndexFunc(l.tasks, func(c *task) bool { return c.mesh == b.Addr })
		svc.Backends[i].Addr = l.tasks[of].six
	}
	return svc
}

// blame logs what the nodes dropped, for a test that failed.
func (l *lab) blame() {
	if l.t.Failed() {
		for _, n := range l.nodes {
			l.t.Log(n.ns, l.ask(n, request{Stats: true}).Drops)
		}
	}
}

func (l *lab) namespace(kind string) string {
	l.t.Helper()
	l.seq++
	ns := fmt.Sprintf("dp%d-%s%d", os.Getpid(), kind, l.seq)
	l.sh("ip", "netns", "add", ns)
	l.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	l.sh("ip", "-n", ns, "link", "set", "lo", "up")
	return ns
}

// plug joins a namespace to the bridge, with an address of each IP version.
func (l *lab) plug(ns, addr, six string) {
	l.t.Helper()
	l.seq++
	up := fmt.Sprintf("p%d", l.seq)
	l.sh("ip", "-n", l.hub, "link", "add", up, "type", "veth", "peer", "name", "eth0", "netns", ns)
	l.sh("ip", "-n", l.hub, "link", "set", up, "master", "br0", "up")
	l.sh("ip", "-n", ns, "addr", "add", addr+"/24", "dev", "eth0")
	l.sh("ip", "-n", ns, "addr", "add", six+"/64", "dev", "eth0", "nodad")
	l.sh("ip", "-n", ns, "link", "set", "eth0", "up")
}

func (l *lab) sh(name string, args ...string) string {
	l.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (l *lab) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// in runs f on a thread in the namespace; sockets that f opens stay there.
func in(ns string, f func() error) error { return machines.InNetns(ns, f) }

// eventually polls until ok or the deadline.
func (l *lab) eventually(what string, ok func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			l.t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the polling helper
	}
}
