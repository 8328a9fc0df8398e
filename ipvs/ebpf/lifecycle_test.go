package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/meshd/meshd/ipvs"
)

func (r *rig) hooked() int {
	r.t.Helper()
	n := 0
	for slot := range uint32(4) {
		var p *ebpf.Program
		if err := r.hooks.Lookup(slot, &p); err == nil {
			n++
			p.Close()
		}
	}
	return n
}

func TestNothingChangesBeforeTheFirstSet(t *testing.T) {
	r := newRig(t)
	if n := r.hooked(); n != 0 {
		t.Errorf("%d slots taken by New", n)
	}
	r.set(ipvs.State{})
	if n := r.hooked(); n != 4 {
		t.Errorf("%d slots taken by Set", n)
	}
}

func TestCloseLeavesEverythingAndRemoveNothing(t *testing.T) {
	r := newRig(t)
	r.set(publishedState(nodeA, ipvs.TCP, backend(task)))
	if err := r.b.Close(); err != nil {
		t.Fatal(err)
	}
	if n := r.hooked(); n != 4 {
		t.Errorf("%d programs work after Close", n)
	}
	links, err := os.ReadDir(filepath.Join(r.dir, "ipvs", layoutVersion, linksDir))
	if err != nil || len(links) != 8 {
		t.Errorf("%d links: %v", len(links), err)
	}
	r.start()
	if err := r.b.Remove(); err != nil {
		t.Fatal(err)
	}
	if n := r.hooked(); n != 0 {
		t.Errorf("%d programs work after Remove", n)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "ipvs")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pins are left: %v", err)
	}
}

func TestHooksReplaced(t *testing.T) {
	r := newRig(t)
	r.set(ipvs.State{})
	if err := r.hooks.Unpin(); err != nil {
		t.Fatal(err)
	}
	newHooks(t, r.dir)
	if err := r.b.Set(ipvs.State{}); !errors.Is(err, ErrHooksReplaced) {
		t.Errorf("got %v", err)
	}
}

func TestNoOverlay(t *testing.T) {
	dir := newBPFFS(t)
	_, err := New(Config{HooksPath: filepath.Join(dir, "mesh_hooks"), PinDir: filepath.Join(dir, "ipvs")})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// One half of a connection may be pushed out of the map before the other.
func TestLostAnswerEntryComesBack(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	r.container(net1, tcp("10.1.0.9:40000", vip+":80", syn))
	forget := func(direction byte) {
		var err error
		for k := range all[[44]byte, [68]byte](r.b.objects.Flows, &err) {
			if k[37] == direction {
				err = errors.Join(err, r.b.objects.Flows.Delete(k))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	forget(1)
	deadline := time.Now().Add(5 * time.Second)
	for {
		is(t, "data", r.container(net1, tcp("10.1.0.9:40000", vip+":80", ack)), container, "10.1.0.9:40000", "10.1.0.2:80")
		got := r.tunnel(net1, nodeB, tcp("10.1.0.2:80", "10.1.0.9:40000", ack))
		if got.src.String() == vip+":80" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("answers are never translated again: %v", got)
		}
	}
	forget(0)
	got := r.container(net1, tcp("10.1.0.9:40000", vip+":80", ack))
	if got.code != redirected || got.flags != rst {
		t.Errorf("without an entry no backend can go on: %v", got)
	}
}

// Many services and backends: what a Set costs. Run with -v to see.
func TestLargeState(t *testing.T) {
	r := newRig(t)
	const services, backends = 300, 60
	s := ipvs.State{MeshVNI: mesh}
	for i := range services {
		svc := ipvs.Service{Key: ipvs.Key{VNI: net1, VIP: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}}
		for j := range backends {
			svc.Backends = append(svc.Backends, ipvs.Backend{Addr: netip.AddrFrom4([4]byte{10, 2, byte(i), byte(j)})})
		}
		s.Services = append(s.Services, svc)
	}
	took := func(what string, f func()) {
		from := time.Now()
		f()
		t.Logf("%s: %v", what, time.Since(from))
	}
	took(fmt.Sprintf("first Set of %d services of %d backends", services, backends), func() { r.set(s) })
	took("the same again", func() { r.set(s) })
	s.Services[7].Backends[3].Draining = true
	took("one backend changed", func() { r.set(s) })
	r.restart()
	took("Set after a restart", func() { r.set(s) })
	held, err := r.b.Held()
	if err != nil || len(held.Services) != services {
		t.Errorf("%d services held, %v", len(held.Services), err)
	}
	took("empty", func() { r.set(ipvs.State{}) })
	var left int
	for range all[slotKey, slot](r.b.objects.Slots, &err) {
		left++
	}
	for range all[backendKey, uint32](r.b.objects.Backends, &err) {
		left++
	}
	if left != 0 || err != nil {
		t.Errorf("%d entries left, %v", left, err)
	}
}

// A service that cannot be written keeps no other from being, nor old ones from going.
func TestOneServicesFailureHoldsUpNoOther(t *testing.T) {
	r := newRig(t)
	at := func(vip string, backends ...ipvs.Backend) ipvs.Service {
		return ipvs.Service{Key: ipvs.Key{VNI: net1, VIP: netip.MustParseAddr(vip)}, Backends: backends}
	}
	state := func(services ...ipvs.Service) ipvs.State {
		s := vipState()
		s.Services = services
		s, err := ipvs.Normalize(s)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	r.set(state(at("10.1.0.101", backend("10.1.0.2")), at("10.1.0.109", backend("10.1.0.3"))))

	maps := r.b.objects.balanceMaps
	turns, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer turns.Close()
	maps.Turns = turns // where new services have no room beside the one that is there
	table, err := read(&maps, r.b.netns, r.b.config.flags())
	if err != nil {
		t.Fatal(err)
	}
	err = table.apply(state(at("10.1.0.101", backend("10.1.0.4")), at("10.1.0.102", backend("10.1.0.2")), at("10.1.0.103", backend("10.1.0.2"))))
	if err == nil || !strings.Contains(err.Error(), "VIP 10.1.0.102") || !strings.Contains(err.Error(), "VIP 10.1.0.103") {
		t.Errorf("the failure does not name its services: %v", err)
	}
	var one *ipvs.NetworkError
	if !errors.As(err, &one) || one.VNI != net1 {
		t.Errorf("the failure does not name its network: %v", err)
	}
	held, err := r.b.Held()
	if err != nil {
		t.Fatal(err)
	}
	if s := held.Services; len(s) != 1 || s[0].VIP.String() != "10.1.0.101" || s[0].Backends[0].Addr.String() != "10.1.0.4" {
		t.Errorf("there are %v, want the one that could be written, and not the one that is gone", s)
	}
	r.set(state(at("10.1.0.102", backend("10.1.0.2")), at("10.1.0.103", backend("10.1.0.2"))))
	if held, err := r.b.Held(); err != nil || len(held.Services) != 2 {
		t.Errorf("once there is room: %v, %v", held.Services, err)
	}
}
