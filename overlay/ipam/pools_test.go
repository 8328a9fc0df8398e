package ipam

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestPoolsSkipWhatOverlaps(t *testing.T) {
	p := NewPools([]Pool{{prefix("10.0.0.0/8"), 24}})
	for _, s := range []string{"10.0.1.0/24", "10.0.4.0/22", "10.255.0.0/16"} {
		if err := p.Reserve(prefix(s)); err != nil {
			t.Fatal(err)
		}
	}
	avoid := []netip.Prefix{prefix("10.0.2.77/32")}
	for _, want := range []string{"10.0.0.0/24", "10.0.3.0/24", "10.0.8.0/24"} {
		if got, err := p.Allocate(false, avoid); err != nil || got != prefix(want) {
			t.Fatalf("got %s %v, want %s", got, err, want)
		}
	}
	if err := p.Reserve(prefix("10.0.0.0/16")); !errors.Is(err, ErrInUse) {
		t.Errorf("overlap: %v", err)
	}
	// Freed ones come back only after the others.
	p.Release(prefix("10.0.0.0/24"))
	if got, err := p.Allocate(false, nil); err != nil || got != prefix("10.0.9.0/24") {
		t.Errorf("got %s %v", got, err)
	}
}

func TestPoolsEndAndWrap(t *testing.T) {
	p := NewPools([]Pool{{prefix("192.168.0.0/23"), 24}, {prefix("255.255.255.0/24"), 24}, {prefix("fd00::/63"), IPv6Size}})
	var got []netip.Prefix
	for range 3 {
		s, err := p.Allocate(false, nil)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s)
	}
	if got[2] != prefix("255.255.255.0/24") {
		t.Errorf("third %s", got[2])
	}
	if _, err := p.Allocate(false, nil); !errors.Is(err, ErrNoPool) {
		t.Errorf("full: %v", err)
	}
	p.Release(got[1])
	if s, err := p.Allocate(false, nil); err != nil || s != got[1] {
		t.Errorf("after release: %s %v", s, err)
	}
	for _, want := range []string{"fd00::/64", "fd00:0:0:1::/64"} {
		if s, err := p.Allocate(true, nil); err != nil || s != prefix(want) {
			t.Errorf("IPv6: %s %v, want %s", s, err, want)
		}
	}
	if _, err := p.Allocate(true, nil); !errors.Is(err, ErrNoPool) {
		t.Errorf("IPv6 full: %v", err)
	}
}

func TestPoolsOfASubnetSize(t *testing.T) {
	p := NewPools([]Pool{{prefix("172.16.0.0/26"), 24}})
	if s, err := p.Allocate(false, nil); err != nil || s != prefix("172.16.0.0/26") {
		t.Fatalf("a pool smaller than the size is one subnet: %s %v", s, err)
	}
	if _, err := p.Allocate(false, nil); !errors.Is(err, ErrNoPool) {
		t.Fatal(err)
	}
}

func TestUniqueLocal(t *testing.T) {
	a, b := UniqueLocal("a"), UniqueLocal("b")
	if a == b || a != UniqueLocal("a") || a.Bits() != 48 || a != a.Masked() || !a.Addr().IsPrivate() {
		t.Errorf("%s and %s", a, b)
	}
	mesh := UniqueLocalMesh("a")
	p := NewPools([]Pool{{a, IPv6Size}})
	if err := p.Reserve(mesh); err != nil {
		t.Fatal(err)
	}
	if s, err := p.Allocate(true, nil); err != nil || s.Bits() != 64 || !a.Contains(s.Addr()) || s.Overlaps(mesh) {
		t.Errorf("the next subnet is %s, %v", s, err)
	}
}

// Where no pool is named, networks are large as long as there are not very many.
func TestDefaultPools(t *testing.T) {
	p := NewPools(DefaultPools())
	if err := p.Reserve(prefix("10.255.0.0/16")); err != nil { // the mesh network
		t.Fatal(err)
	}
	var got []netip.Prefix
	sizes := map[int]int{}
	for range 512 + 1024 + 300 {
		s, err := p.Allocate(false, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > 0 && got[len(got)-1].Overlaps(s) || !DefaultRange().Overlaps(s) {
			t.Fatalf("%s after %s", s, got[len(got)-1])
		}
		got = append(got, s)
		sizes[s.Bits()]++
	}
	if got[0] != prefix("10.0.0.0/18") || sizes[18] != 512 || sizes[20] != 1024 || sizes[24] != 300 {
		t.Errorf("first %s, sizes %v", got[0], sizes)
	}
	// A large one that came free is used again before small ones are.
	p.Release(got[7])
	if s, err := p.Allocate(false, nil); err != nil || s != got[7] {
		t.Errorf("got %s %v, want %s", s, err, got[7])
	}
}

func TestPoolsResume(t *testing.T) {
	p := NewPools([]Pool{{prefix("10.0.0.0/16"), 24}, {prefix("10.7.0.0/16"), 24}})
	p.Resume(prefix("192.168.0.0/24"))
	p.Resume(prefix("10.7.3.0/24"))
	p.Resume(prefix("10.7.9.0/25"))
	if s, err := p.Allocate(false, nil); err != nil || s != prefix("10.7.4.0/24") {
		t.Errorf("got %s %v", s, err)
	}
}

// The sorted list must find what a look at all would.
func TestPoolsAgainstList(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	p := NewPools([]Pool{{prefix("10.0.0.0/20"), 26}})
	var list []netip.Prefix
	for range 5000 {
		bits := 22 + rng.IntN(9)
		s := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(rng.IntN(16)), byte(rng.IntN(256))}), bits).Masked()
		_, overlaps := overlap(s, list)
		switch {
		case rng.IntN(3) == 0 && len(list) > 0:
			i := rng.IntN(len(list))
			p.Release(list[i])
			list = append(list[:i], list[i+1:]...)
		case rng.IntN(4) == 0:
			if s, err := p.Allocate(false, nil); err == nil {
				if hit, ok := overlap(s, list); ok {
					t.Fatalf("%s was given out though %s is taken", s, hit)
				}
				list = append(list, s)
			}
		default:
			if err := p.Reserve(s); (err != nil) != overlaps {
				t.Fatalf("reserve %s: %v; of %v", s, err, list)
			} else if err == nil {
				list = append(list, s)
			}
		}
	}
}
