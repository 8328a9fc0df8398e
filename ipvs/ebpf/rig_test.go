package ebpf

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
)

// What the stand-in for the overlay's forwarding half returns, plus its slot.
const forwarded = 100

const (
	dropped    = 2 // TC_ACT_SHOT
	redirected = 7 // TC_ACT_REDIRECT
)

// rig is one node's balancer without a node: programs are run on single packets,
// and the overlay's half is a program that says it was called.
type rig struct {
	t           *testing.T
	dir         string
	b           *Balancer
	hooks       *ebpf.Map
	ifindex     uint32 // where packets come in
	mode        Mode
	connections uint32
}

func newBPFFS(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for BPF")
	}
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpffs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount bpffs: %v", err)
		}
	})
	return dir
}

// newHooks makes the overlay's program array with stand-ins for its halves.
func newHooks(t *testing.T, dir string) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "mesh_hooks", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	for slot := uint32(4); slot < 8; slot++ {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "forward", Type: ebpf.SchedCLS, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(forwarded+slot)), asm.Return()},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Put(slot, p); err != nil {
			t.Fatal(err)
		}
		p.Close()
	}
	if err := m.Pin(filepath.Join(dir, "mesh_hooks")); err != nil {
		t.Fatal(err)
	}
	return m
}

// newRig is a node of its own; several rigs in a test are several nodes.
func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigIn(t, ModeAuto)
}

func newRigIn(t *testing.T, mode Mode) *rig {
	t.Helper()
	return newRigOf(t, mode, 4096)
}

// newRigOf remembers so many connections.
func newRigOf(t *testing.T, mode Mode, connections uint32) *rig {
	t.Helper()
	dir := newBPFFS(t)
	r := &rig{t: t, dir: dir, hooks: newHooks(t, dir), ifindex: 1, mode: mode, connections: connections}
	r.start()
	return r
}

func (r *rig) start() {
	r.t.Helper()
	b, err := New(Config{
		HooksPath: filepath.Join(r.dir, "mesh_hooks"), PinDir: filepath.Join(r.dir, "ipvs"),
		Connections: r.connections, Mode: r.mode, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.b = b
	r.t.Cleanup(func() { b.Close() })
}

// restart is a new process.
func (r *rig) restart() {
	r.t.Helper()
	if err := r.b.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

func (r *rig) set(s ipvs.State) {
	r.t.Helper()
	if err := r.b.Set(s); err != nil {
		r.t.Fatal(err)
	}
}

// pass makes all connections older; seen is the last word of struct flow.
func (r *rig) pass(seconds uint32) {
	r.t.Helper()
	var err error
	for k, v := range all[[44]byte, [68]byte](r.b.objects.Flows, &err) {
		putNative(v[64:], nativeEndian(v[64:])-seconds)
		err = errors.Join(err, r.b.objects.Flows.Put(k, v))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// buff is struct __sk_buff as far as the programs use it.
type buff struct {
	Len, PktType, Mark, QueueMapping, Protocol, VlanPresent, VlanTCI, VlanProto uint32
	Priority, IngressIfindex, Ifindex, TCIndex                                  uint32
	CB                                                                          [5]uint32
	_                                                                           [31]uint32
}

type result struct {
	code    int32
	vni     uint32
	verdict uint32
	node    netip.Addr
	frame
}

func (r result) String() string {
	return fmt.Sprintf("code %d vni %d verdict %d node %v %v -> %v flags %x", r.code, r.vni, r.verdict, r.node, r.src, r.dst, r.flags)
}

const (
	next    = 0
	deliver = 1
	toNode  = 2
)

// run gives a packet to a program, as the overlay does.
func (r *rig) run(p *ebpf.Program, vni uint32, peer string, f frame) result {
	r.t.Helper()
	in := buff{Ifindex: r.ifindex, CB: [5]uint32{vni << 8}}
	if peer != "" {
		a := netip.MustParseAddr(peer).As16()
		for i := range 4 {
			in.CB[i+1] = nativeEndian(a[4*i:])
		}
	}
	var out buff
	data := make([]byte, 4096)
	opts := &ebpf.RunOptions{Data: f.bytes(), DataOut: data, Context: in, ContextOut: &out}
	code, err := p.Run(opts)
	if err != nil {
		r.t.Fatalf("run: %v", err)
	}
	res := result{code: int32(code), vni: out.CB[0] >> 8, verdict: out.CB[0] & 0xff, frame: parseFrame(r.t, opts.DataOut)}
	var node [16]byte
	for i := range 4 {
		putNative(node[4*i:], out.CB[i+1])
	}
	res.node = netip.AddrFrom16(node).Unmap()
	if !res.ipOK || !res.sumOK {
		r.t.Errorf("wrong checksum (IP %v, transport %v): %v", res.ipOK, res.sumOK, res)
	}
	return res
}

func (r *rig) container(vni uint32, f frame) result {
	r.t.Helper()
	return r.run(r.b.objects.BalanceContainer, vni, "", f)
}

func (r *rig) tunnel(vni uint32, peer string, f frame) result {
	r.t.Helper()
	return r.run(r.b.objects.BalanceTunnel, vni, peer, f)
}

func (r *rig) underlay(f frame) result {
	r.t.Helper()
	return r.run(r.b.objects.BalanceUnderlay, 0, "", f)
}

func (r *rig) lo(f frame) result {
	r.t.Helper()
	return r.run(r.b.objects.BalanceLocal, 0, "", f)
}

func (r *rig) drops(reason string) uint64 {
	r.t.Helper()
	s, err := r.b.Stats()
	if err != nil {
		r.t.Fatal(err)
	}
	return s.Drops[reason]
}

func is(t *testing.T, what string, r result, code int32, src, dst string) {
	t.Helper()
	if r.code != code || r.src.String() != src || r.dst.String() != dst {
		t.Fatalf("%s: got %v, want code %d %s -> %s", what, r, code, src, dst)
	}
}

const (
	net1 = 4097
	mesh = 4096
	vip  = "10.1.0.100"
)

func backend(s string) ipvs.Backend {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return ipvs.Backend{Addr: a.Addr(), Port: a.Port()}
	}
	return ipvs.Backend{Addr: netip.MustParseAddr(s)}
}

func drainingBackend(s string) ipvs.Backend {
	b := backend(s)
	b.Draining = true
	return b
}

func vipState(backends ...ipvs.Backend) ipvs.State {
	return ipvs.State{
		MeshVNI: mesh, NodeAddrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Services: []ipvs.Service{{Key: ipvs.Key{VNI: net1, VIP: netip.MustParseAddr(vip)}, Name: "web", Backends: backends}},
	}
}

func publishedState(node string, proto ipvs.Protocol, backends ...ipvs.Backend) ipvs.State {
	return ipvs.State{
		MeshVNI: mesh, NodeAddrs: []netip.Addr{netip.MustParseAddr(node)},
		Services: []ipvs.Service{{Key: ipvs.Key{VNI: mesh, Port: 8080, Protocol: proto}, Name: "web", Backends: backends}},
	}
}
