package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/meshd/meshd/ipvs"
)

// upgrade ends the process and loads a version with another layout, which does not work yet.
func (r *rig) upgrade() {
	r.t.Helper()
	if err := r.b.Close(); err != nil {
		r.t.Fatal(err)
	}
	was := layoutVersion
	r.t.Cleanup(func() { layoutVersion = was })
	layoutVersion += "next"
	r.start()
}

// busyState has a VIP and a published port; more services give these other numbers than they had in an empty map.
func busyState(more ...string) ipvs.State {
	s := vipState(backend("10.1.0.2"), backend("10.1.0.3"), backend("10.1.0.4"))
	s.Services = append(s.Services, publishedState(nodeA, ipvs.UDP, backend("10.255.0.2:80"), backend("10.255.0.3:80")).Services...)
	for _, vip := range more {
		s.Services = append(s.Services, ipvs.Service{Key: ipvs.Key{VNI: net1, VIP: netip.MustParseAddr(vip)}, Backends: []ipvs.Backend{backend("10.1.0.5")}})
	}
	return s
}

// connections are some that go on for a while: who has each of them.
type connections struct {
	r             *rig
	tcp, datagram map[string]string // client -> backend
}

func (r *rig) begin(from, to int) *connections {
	r.t.Helper()
	c := connections{r, map[string]string{}, map[string]string{}}
	for port := from; port < to; port++ {
		inner, outer := fmt.Sprintf("10.1.0.9:%d", port), fmt.Sprintf("198.51.100.7:%d", port)
		c.tcp[inner] = r.container(net1, tcp(inner, vip+":80", syn)).dst.String()
		c.datagram[outer] = r.underlay(udp(outer, nodeA+":8080", "first")).dst.String()
	}
	return &c
}

// goOn sends a packet more on each of them, both ways.
func (c *connections) goOn(what string) {
	c.r.t.Helper()
	for client, task := range c.tcp {
		is(c.r.t, what+": data", c.r.container(net1, tcp(client, vip+":80", ack)), container, client, task)
		is(c.r.t, what+": answer", c.r.tunnel(net1, nodeB, tcp(task, client, ack)), tunnelled, vip+":80", client)
	}
	for client, task := range c.datagram {
		delivered(c.r.t, what+": datagram", c.r.underlay(udp(client, nodeA+":8080", "next")), underlay, client, task)
		is(c.r.t, what+": answer", c.r.tunnel(mesh, nodeB, udp(task, client, "answer")), redirected, nodeA+":8080", client)
	}
}

func TestConnectionsSurviveAnotherLayout(t *testing.T) {
	r := newRig(t)
	r.set(busyState("10.1.0.90"))
	before := r.begin(20000, 20100)
	former := filepath.Join(r.dir, "ipvs", layoutVersion)
	r.upgrade()
	r.set(busyState("10.1.0.80", "10.1.0.90", "10.1.0.95"))
	if _, err := os.Stat(former); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the former layout is still there: %v", err)
	}
	before.goOn("after the upgrade")
	r.begin(21000, 21010).goOn("a new connection")
	if r.b.held.node.Flags&carrying != 0 {
		t.Error("our programs still leave packets to others")
	}
	r.set(vipState(backend("10.1.0.2"))) // what was taken over belongs to the right services
	for client, task := range before.tcp {
		got := r.container(net1, tcp(client, vip+":80", ack))
		if gone := task != "10.1.0.2:80"; gone != (got.code == redirected && got.flags == rst) {
			t.Errorf("the connection to %s: %v", task, got)
		}
	}
}

// Another size of the map is another layout, too.
func TestConnectionsSurviveAnotherSize(t *testing.T) {
	r := newRig(t)
	r.set(busyState())
	before := r.begin(20000, 20100)
	if err := r.b.Close(); err != nil {
		t.Fatal(err)
	}
	r.connections /= 2
	r.start()
	r.set(busyState())
	before.goOn("in the smaller map")
	if left, err := formerDirs(filepath.Join(r.dir, "ipvs")); err != nil || len(left) != 0 {
		t.Errorf("%v is left: %v", left, err)
	}
}

// A process that dies before its programs work leaves the connections to the former ones; the next one takes them over.
func TestUpgradeThatDies(t *testing.T) {
	r := newRig(t)
	r.set(busyState())
	before := r.begin(20000, 20010)
	r.upgrade()
	stale := r.b.objects.Services
	if err := stale.Put(keyOf(ipvs.Key{VNI: net1, VIP: netip.MustParseAddr("10.1.0.70")}), service{ID: 1, Generation: 1}); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.set(busyState())
	before.goOn("after the second try")
	held, err := r.b.Held()
	if err != nil || len(held.Services) != 2 {
		t.Errorf("held %v, %v", held.Services, err)
	}
}

// While connections are carried over, those that are not there yet are the former programs'.
func TestFormerProgramsHelpOut(t *testing.T) {
	r := newRig(t)
	r.set(busyState())
	before := r.begin(20000, 20010)
	r.upgrade()
	b := r.b
	b.beginCarryLocked()
	if err := b.rereadLocked(); err != nil {
		t.Fatal(err)
	}
	want, err := ipvs.Normalize(busyState())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.held.apply(want), b.objects.follow(), b.objects.hook()); err != nil {
		t.Fatal(err)
	}
	before.goOn("before it is carried over")
	meanwhile := r.begin(21000, 21010)
	meanwhile.goOn("what begins meanwhile")
	if flows := countFlows(t, b); flows != 2*len(meanwhile.tcp) {
		t.Errorf("%d entries of ours, want two for each TCP connection that began", flows)
	}
	if err := b.endCarryLocked(); err != nil {
		t.Fatal(err)
	}
	for slot := range b.objects.slots() {
		if err := gone(b.objects.Former.Delete(slot)); err != nil {
			t.Fatal(err)
		}
	}
	before.goOn("carried over")
	meanwhile.goOn("what began meanwhile")
}

func countFlows(t *testing.T, b *Balancer) (n int) {
	t.Helper()
	var err error
	for range all[flowKey, flow](b.objects.Flows, &err) {
		n++
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A layout whose fields stood elsewhere, one of them smaller, one not there yet and one not needed any more.
func TestConversionFollowsNames(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for BPF")
	}
	specs, err := mapSpecs()
	if err != nil {
		t.Fatal(err)
	}
	spec := specs[balanceMapFlows]
	var address *btf.Struct
	for _, m := range spec.Value.(*btf.Struct).Members {
		if m.Name == "src" {
			address = m.Type.(*btf.Struct)
		}
	}
	u16, u32 := &btf.Int{Name: "unsigned short", Size: 2}, &btf.Int{Name: "unsigned int", Size: 4}
	old := spec.Copy()
	old.Value = &btf.Struct{Name: "flow", Size: 48, Members: []btf.Member{
		{Name: "service", Type: u16, Offset: 0}, {Name: "dport", Type: u16, Offset: 16},
		{Name: "dst", Type: address, Offset: 32}, {Name: "src", Type: address, Offset: 160},
		{Name: "colour", Type: u32, Offset: 288}, {Name: "seen", Type: u32, Offset: 320}, {Name: "flags", Type: u16, Offset: 352},
	}}
	old.ValueSize, old.Pinning = 48, ebpf.PinNone
	m, err := ebpf.NewMap(old)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	key, value, err := conversions(m, spec)
	if err != nil {
		t.Fatal(err)
	}
	in := make([]byte, 48)
	a, b := addrOf(netip.MustParseAddr("10.1.0.2")), addrOf(netip.MustParseAddr("2001:db8::9"))
	copy(in, []byte{7, 1, 0x1f, 0x90})
	copy(in[4:], a[:])
	copy(in[20:], b[:])
	copy(in[36:], []byte{9, 9, 9, 9, 4, 3, 2, 1, 16, 0})
	out := value.of(in)
	want := flow{Src: b, Dst: a, Dport: portOf(8080), Flags: flowAccepted, Service: 0x107, Seen: 0x01020304}
	if got := decodeFlow(t, out); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	k := make([]byte, spec.KeySize)
	for i := range k {
		k[i] = byte(i)
	}
	for i, x := range key.of(k) {
		if pad := i == 38 || i == 39; x != byte(i) && !pad {
			t.Errorf("byte %d of a key of the same layout became %d", i, x)
		}
	}
}

func decodeFlow(t *testing.T, raw []byte) (f flow) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(raw)), MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := errors.Join(m.Put(uint32(0), raw), m.Lookup(uint32(0), &f)); err != nil {
		t.Fatal(err)
	}
	return f
}
