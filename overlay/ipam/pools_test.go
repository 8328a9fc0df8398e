package ipam

import (
	"errors"
	"net/netip"
	"testing"
)

func TestPoolsSkipWhatOverlaps(t *testing.T) {
	p := NewPools([]netip.Prefix{prefix("10.0.0.0/8")}, 24)
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
	p := NewPools([]netip.Prefix{prefix("192.168.0.0/23"), prefix("255.255.255.0/24"), prefix("fd00::/63")}, 24)
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
	p := NewPools([]netip.Prefix{prefix("172.16.0.0/26")}, 24)
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
	p := NewPools([]netip.Prefix{a}, 24)
	if err := p.Reserve(mesh); err != nil {
		t.Fatal(err)
	}
	if s, err := p.Allocate(true, nil); err != nil || s.Bits() != 64 || !a.Contains(s.Addr()) || s.Overlaps(mesh) {
		t.Errorf("the next subnet is %s, %v", s, err)
	}
}
