package datapath

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func TestAFullTableSaysSo(t *testing.T) {
	d, _ := loaded(t)
	defer d.Close()
	if got := d.Capacities(); len(got) != 4 || got["endpoints"] != int(d.Endpoints.m.MaxEntries()) || got["subnets"] == 0 {
		t.Errorf("capacities: %v", got)
	}
	trie := Table[SubnetKey, uint32]{"subnets", small(t, d.Subnets.m)}
	hash := Table[Addr, uint32]{"peers", small(t, d.Peers.m)}
	var last [2]error
	for i := range byte(3) {
		if last[0] != nil || last[1] != nil {
			t.Fatalf("entry %d of 2: %v", i, last)
		}
		addr := netip.AddrFrom4([4]byte{10, 0, i, 0})
		last = [2]error{trie.Put(SubnetKeyOf(netip.PrefixFrom(addr, 24)), 1), hash.Put(AddrOf(addr), 1)}
	}
	for i, want := range []string{"map subnets of the overlay is full: it holds all 2 entries", "map peers of the overlay is full: it holds all 2 entries"} {
		var full *FullError
		if !errors.As(last[i], &full) || !strings.Contains(last[i].Error(), want) {
			t.Errorf("want %q, got %v", want, last[i])
		}
	}
	if !errors.Is(last[0], unix.ENOSPC) || !errors.Is(last[1], unix.E2BIG) {
		t.Errorf("the kernel's own errors are lost: %v", last)
	}
	if err := hash.Put(AddrOf(netip.AddrFrom4([4]byte{10, 0, 1, 0})), 2); err != nil {
		t.Errorf("an entry that is there, in a full map: %v", err)
	}
}

// small is a map like m with room for two.
func small(t *testing.T, m *ebpf.Map) *ebpf.Map {
	t.Helper()
	out, err := ebpf.NewMap(&ebpf.MapSpec{Type: m.Type(), KeySize: m.KeySize(), ValueSize: m.ValueSize(), MaxEntries: 2, Flags: unix.BPF_F_NO_PREALLOC})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return out
}
