package overlay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/overlaytest"
	"github.com/meshd/meshd/overlay/wireguard"
)

// The test binary is its own node daemon: run with this variable set, it serves
// commands from its standard input in the network namespace it was started in.
const daemonEnv = "OVERLAY_TEST_RUNDIR"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == wireguard.HelperCommand {
		if err := wireguard.Serve(os.Args[2:]); err != nil {
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv(daemonEnv); dir != "" {
		if err := serveDaemon(dir); err != nil {
			fmt.Fprintln(os.Stderr, "daemon:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// onBridge is the environment of a node with DriverBridge.
const onBridge = "OVERLAY_TEST_DRIVER=bridge"

// everyWay gives nodes' environments: the two ways of attaching programs, and none.
func everyWay() map[string][]string {
	return map[string][]string{"tcx": nil, "clsact": {"OVERLAY_TEST_NOTCX=1"}, "bridge": {onBridge}}
}

// onEachDriver runs a test of what both drivers do alike.
func onEachDriver(t *testing.T, test func(t *testing.T, d Driver, env ...string)) {
	t.Helper()
	t.Run("ebpf", func(t *testing.T) { test(t, DriverEBPF) })
	t.Run("bridge", func(t *testing.T) { test(t, DriverBridge, onBridge) })
}

// table is where a driver's routes to containers are.
func (d Driver) table() string {
	if d == DriverBridge {
		return strconv.Itoa(link.Table)
	}
	return "main"
}

type request struct {
	Op         string
	State      State
	Attachment Attachment
	ID         string
}

type response struct {
	Name        string
	Attachments []Attachment
	Drops       map[string]uint64
	Repairs     map[string]uint64
	Keys        []wireguard.PublicKey
	Err         string
}

func serveDaemon(dir string) error {
	if err := overlaytest.OwnRun(dir); err != nil {
		return err
	}
	o, err := New(Config{
		RunDir: dir, KeyFile: filepath.Join(dir, "wireguard.json"), Resync: time.Second, NoTCX: os.Getenv("OVERLAY_TEST_NOTCX") != "",
		KeyOverlap: 2 * time.Second,
		Direct:     os.Getenv("OVERLAY_TEST_NODIRECT") == "",
		Driver:     Driver(os.Getenv("OVERLAY_TEST_DRIVER")),
		Logger:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- o.Run(ctx) }()
	out := json.NewEncoder(os.Stdout)
	_ = out.Encode(response{Name: "ready"})
	in := json.NewDecoder(os.Stdin)
	for {
		var q request
		if err := in.Decode(&q); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if err := out.Encode(handle(o, q)); err != nil {
			return err
		}
	}
	cancel()
	return errors.Join(<-ran, o.Close())
}

func handle(o *Overlay, q request) (r response) {
	var err error
	switch q.Op {
	case "set":
		err = o.Set(q.State)
	case "attach":
		r.Name, err = o.Attach(q.Attachment)
	case "detach":
		err = o.Detach(q.ID)
	case "attachments":
		r.Attachments = o.Attachments()
	case "drops":
		r.Drops, err = o.Drops()
	case "keys":
		r.Keys, _ = o.Keys()
	case "repairs":
		r.Repairs = o.Repairs()
	default:
		err = fmt.Errorf("unknown op %s", q.Op)
	}
	if err != nil {
		r.Err = err.Error()
	}
	return r
}

// lab is a few nodes, and the world beyond them, on one bridge.
type lab struct {
	t     *testing.T
	seq   int
	hub   string
	world string
	nodes []*node
	// six: the nodes know each other by IPv6 addresses.
	six bool
	// transport is that between all nodes.
	transport Transport
	// encrypted says that of user networks; epoch is that of the nodes' keys.
	encrypted bool
	epoch     uint64
}

// worldAddr is a machine that is not of the cluster.
const (
	worldAddr  = "192.0.2.100"
	worldAddr6 = "2001:db8::100"
)

type node struct {
	lab  *lab
	ns   string
	addr netip.Addr
	dir  string
	env  []string
	// keys are its WireGuard keys as others know them.
	keys []wireguard.PublicKey
	// tunnelOnly: it takes no direct packets.
	tunnelOnly bool

	cmd *exec.Cmd
	in  *json.Encoder
	out *bufio.Scanner
	end io.Closer
}

func newLab(t *testing.T, nodes int, env ...string) *lab {
	t.Helper()
	return newLabOn(t, false, nodes, env...)
}

func newLabOn(t *testing.T, six bool, nodes int, env ...string) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for network namespaces")
	}
	l := &lab{t: t, six: six}
	l.hub = l.namespace("hub")
	l.ip(l.hub, "link", "add", "br0", "type", "bridge")
	l.ip(l.hub, "link", "set", "br0", "up")
	l.world = l.namespace("world")
	l.plug(l.world, worldAddr+"/24")
	l.ip(l.world, "addr", "add", worldAddr6+"/64", "dev", "eth0", "nodad")
	for i := range nodes {
		l.nodes = append(l.nodes, l.newNode(i+1, env))
	}
	return l
}

// namespace makes a network namespace that goes with the test.
func (l *lab) namespace(kind string) string {
	l.t.Helper()
	l.seq++
	ns := fmt.Sprintf("ov%d-%s%d", os.Getpid(), kind, l.seq)
	l.sh("ip", "netns", "add", ns)
	l.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	l.ip(ns, "link", "set", "lo", "up")
	return ns
}

func (l *lab) plug(ns, addr string) {
	l.t.Helper()
	l.seq++
	up := fmt.Sprintf("p%d", l.seq)
	l.ip(l.hub, "link", "add", up, "type", "veth", "peer", "name", "eth0", "netns", ns)
	l.ip(l.hub, "link", "set", up, "master", "br0", "up")
	l.ip(ns, "addr", "add", addr, "dev", "eth0")
	l.ip(ns, "link", "set", "eth0", "up")
}

func (l *lab) newNode(i int, env []string) *node {
	l.t.Helper()
	n := &node{
		lab: l, ns: l.namespace("n"), env: env,
		addr: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i)), dir: l.t.TempDir(),
	}
	l.plug(n.ns, n.addr.String()+"/24")
	addr6 := netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i))
	l.ip(n.ns, "addr", "add", addr6.String()+"/64", "dev", "eth0", "nodad")
	if l.six {
		n.addr = addr6
	}
	// Here, not by the daemon, which has its mounts for itself.
	l.check(datapath.Mount(filepath.Join(n.dir, "bpf")))
	l.t.Cleanup(func() {
		n.kill()
		for i := range uint64(2) { // which ends the helpers
			_ = exec.Command("ip", "-n", n.ns, "link", "del", wireguard.DeviceName(i)).Run()
		}
		_ = unix.Unmount(filepath.Join(n.dir, "bpf"), unix.MNT_DETACH)
	})
	n.start()
	return n
}

func (n *node) start() {
	n.lab.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), daemonEnv+"="+n.dir), n.env...)
	cmd.Stderr = &logWriter{n.lab.t, n.ns}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	stdin, err := cmd.StdinPipe()
	n.lab.check(err)
	stdout, err := cmd.StdoutPipe()
	n.lab.check(err)
	n.lab.within(n.ns, func() error { return cmd.Start() })
	n.cmd, n.in, n.out, n.end = cmd, json.NewEncoder(stdin), bufio.NewScanner(stdout), stdin
	n.out.Buffer(nil, 1<<20)
	if r := n.answer(); r.Name != "ready" {
		n.lab.t.Fatalf("%s does not start: %+v", n.ns, r)
	}
}

func (n *node) kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
	n.cmd = nil
}

func (n *node) ask(q request) response {
	n.lab.t.Helper()
	n.lab.check(n.in.Encode(q))
	r := n.answer()
	if r.Err != "" {
		n.lab.t.Fatalf("%s: %s: %s", n.ns, q.Op, r.Err)
	}
	return r
}

func (n *node) answer() (r response) {
	n.lab.t.Helper()
	if !n.out.Scan() {
		n.lab.t.Fatalf("%s: daemon ended: %v", n.ns, n.out.Err())
	}
	n.lab.check(json.Unmarshal(n.out.Bytes(), &r))
	return r
}

// container is a network namespace with one interface per attachment.
type container struct {
	lab    *lab
	node   *node
	ns     string
	links  int
	attach []Attachment
}

func (n *node) container() *container {
	return &container{lab: n.lab, node: n, ns: n.lab.namespace("c")}
}

// join attaches the container to a network, as the engine does, with an address
// or one of each family.
func (c *container) join(network Network, addrs ...string) *container {
	c.lab.t.Helper()
	at := Attachment{NetworkID: network.ID, VNI: network.VNI, Mesh: network.Mesh}
	for _, s := range addrs {
		a := netip.MustParseAddr(s)
		for _, subnet := range network.Subnets {
			if subnet.Contains(a) {
				at.Addrs = append(at.Addrs, netip.PrefixFrom(a, subnet.Bits()))
			}
		}
	}
	last := at.Addrs[0].Addr().As16()
	at.ID, at.MAC = fmt.Sprintf("%012x%s", last[10:], c.ns), MACFor(at.Addrs[0].Addr())
	c.attach = append(c.attach, at)
	peer := c.node.ask(request{Op: "attach", Attachment: at}).Name
	dev := "eth" + strconv.Itoa(c.links)
	c.links++
	c.lab.ip(c.node.ns, "link", "set", peer, "netns", c.ns)
	c.lab.ip(c.ns, "link", "set", peer, "name", dev)
	c.lab.ip(c.ns, "link", "set", dev, "up")
	for _, p := range at.Addrs {
		c.lab.ip(c.ns, "addr", "add", p.String(), "dev", dev)
	}
	for _, g := range network.Gateways {
		if network.Mesh && slices.ContainsFunc(at.Addrs, func(p netip.Prefix) bool { return p.Contains(g) }) {
			c.lab.ip(c.ns, "route", "add", "default", "via", g.String())
		}
	}
	return c
}

func (l *lab) ip(ns string, args ...string) string {
	l.t.Helper()
	return l.sh("ip", append([]string{"-n", ns}, args...)...)
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

// within runs f on a thread in the namespace; sockets that f opens stay there.
func (l *lab) within(ns string, f func() error) {
	l.t.Helper()
	l.check(in(ns, f))
}

func in(ns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		file, err := os.Open(filepath.Join("/run/netns", ns))
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

// eventually polls until ok or the deadline.
func (l *lab) eventually(what string, ok func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			l.t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

type logWriter struct {
	t    *testing.T
	name string
}

func (w *logWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s: %s", w.name, bytes.TrimSpace(b))
	return len(b), nil
}
