package ipam

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func mustSubnet(t *testing.T, c SubnetConfig) *Subnet {
	t.Helper()
	s, err := NewSubnet(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func TestSubnetHandsOutAllHostsOnce(t *testing.T) {
	for _, tc := range []struct {
		prefix  string
		gateway string
		hosts   int
		first   string
	}{
		{"10.0.1.0/24", "10.0.1.1", 253, "10.0.1.2"},
		{"10.0.1.0/30", "10.0.1.1", 1, "10.0.1.2"},
		{"10.0.1.0/31", "10.0.1.0", 1, "10.0.1.1"},
		{"10.255.0.0/16", "10.255.0.1", 65533, "10.255.0.2"},
		{"fd00::/120", "fd00::1", 254, "fd00::2"},
	} {
		s := mustSubnet(t, SubnetConfig{Prefix: prefix(tc.prefix)})
		if s.Gateway() != addr(tc.gateway) {
			t.Errorf("%s: gateway %s, want %s", tc.prefix, s.Gateway(), tc.gateway)
		}
		seen := map[netip.Addr]bool{}
		for {
			a, err := s.Allocate()
			if err != nil {
				if !errors.Is(err, ErrExhausted) {
					t.Errorf("%s: %v", tc.prefix, err)
				}
				break
			}
			if len(seen) == 0 && a != addr(tc.first) {
				t.Errorf("%s: first address %s, want %s", tc.prefix, a, tc.first)
			}
			if seen[a] || !s.Prefix().Contains(a) || a == s.Gateway() {
				t.Fatalf("%s: bad address %s", tc.prefix, a)
			}
			seen[a] = true
		}
		if len(seen) != tc.hosts {
			t.Errorf("%s: %d addresses, want %d", tc.prefix, len(seen), tc.hosts)
		}
	}
}

func TestSubnetReusesLate(t *testing.T) {
	s := mustSubnet(t, SubnetConfig{Prefix: prefix("10.0.0.0/29")})
	first, err := s.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	s.Release(first)
	for i := range 4 {
		if a, err := s.Allocate(); err != nil || a == first {
			t.Fatalf("allocation %d: %s %v: the freed address came back early", i, a, err)
		}
	}
	if a, err := s.Allocate(); err != nil || a != first {
		t.Fatalf("got %s %v, want the freed address now", a, err)
	}
}

func TestSubnetReservations(t *testing.T) {
	s := mustSubnet(t, SubnetConfig{
		Prefix: prefix("10.0.0.0/24"), Gateway: addr("10.0.0.254"), Range: prefix("10.0.0.128/30"),
		Reserved: []netip.Addr{addr("10.0.0.129")},
	})
	for _, tc := range []struct {
		addr string
		want error
	}{
		{"10.0.0.254", ErrInUse}, {"10.0.0.129", ErrInUse}, {"10.0.0.0", ErrOutside},
		{"10.0.0.255", ErrOutside}, {"10.0.1.1", ErrOutside}, {"10.0.0.1", nil}, {"10.0.0.1", ErrInUse},
		{"fd00::1", ErrOutside},
	} {
		if err := s.Reserve(addr(tc.addr)); !errors.Is(err, tc.want) {
			t.Errorf("reserve %s: %v, want %v", tc.addr, err, tc.want)
		}
	}
	var got []string
	for {
		a, err := s.Allocate()
		if err != nil {
			break
		}
		got = append(got, a.String())
	}
	if len(got) != 3 || got[0] != "10.0.0.128" || got[2] != "10.0.0.131" {
		t.Errorf("the range gave %v", got)
	}
	if _, err := NewSubnet(SubnetConfig{Prefix: prefix("10.0.0.0/24"), Range: prefix("10.0.1.0/30")}); !errors.Is(err, ErrOutside) {
		t.Errorf("foreign range: %v", err)
	}
}

func TestSubnetUsage(t *testing.T) {
	s := mustSubnet(t, SubnetConfig{
		Prefix: prefix("10.0.0.0/24"), Range: prefix("10.0.0.0/29"), Reserved: []netip.Addr{addr("10.0.0.3"), addr("10.0.0.9")},
	})
	want := func(taken, of uint64) {
		t.Helper()
		if gotTaken, gotOf := s.Usage(); gotTaken != taken || gotOf != of {
			t.Errorf("%d of %d in use, want %d of %d", gotTaken, gotOf, taken, of)
		}
	}
	want(2, 7) // gateway .1 and .3 of .1 to .7
	for range 5 {
		if _, err := s.Allocate(); err != nil {
			t.Fatal(err)
		}
	}
	want(7, 7)
	if _, err := s.Allocate(); !errors.Is(err, ErrExhausted) || err.Error() != "subnet 10.0.0.0/24: no free address (7 of 7 in use)" {
		t.Errorf("full: %v", err)
	}
	s.Release(addr("10.0.0.9"))
	want(7, 7)
	s.Release(addr("10.0.0.5"))
	want(6, 7)
	if a, err := s.Allocate(); err != nil || a != addr("10.0.0.5") {
		t.Errorf("got %s %v", a, err)
	}
	if _, err := NewSubnet(SubnetConfig{Prefix: prefix("10.0.0.0/24"), Range: prefix("10.0.0.0/32")}); !errors.Is(err, ErrExhausted) {
		t.Errorf("a range of the network address alone: %v", err)
	}
	huge := mustSubnet(t, SubnetConfig{Prefix: prefix("fd00::/64")})
	if taken, of := huge.Usage(); taken != 1 || of != 1<<64-2 {
		t.Errorf("/64: %d of %d", taken, of)
	}
}

func TestSubnetResumes(t *testing.T) {
	for _, tc := range []struct{ behind, want string }{
		{"10.0.0.129", "10.0.0.130"}, {"10.0.0.131", "10.0.0.128"}, {"10.0.0.7", "10.0.0.128"}, {"10.9.0.129", "10.0.0.128"},
	} {
		s := mustSubnet(t, SubnetConfig{Prefix: prefix("10.0.0.0/24"), Range: prefix("10.0.0.128/30")})
		s.Resume(addr(tc.behind))
		if a, err := s.Allocate(); err != nil || a != addr(tc.want) {
			t.Errorf("behind %s: %s %v, want %s", tc.behind, a, err, tc.want)
		}
	}
}

func TestSubnetHugeIPv6(t *testing.T) {
	s := mustSubnet(t, SubnetConfig{Prefix: prefix("fd00::/48")})
	far := addr("fd00:0:0:7::9")
	if err := s.Reserve(far); err != nil {
		t.Fatal(err)
	}
	if err := s.Reserve(far); !errors.Is(err, ErrInUse) {
		t.Fatal(err)
	}
	s.Release(far)
	if s.Taken(far) || s.Used() != 1 {
		t.Fatalf("taken %v, used %d", s.Taken(far), s.Used())
	}
	if a, err := s.Allocate(); err != nil || a != addr("fd00::2") {
		t.Fatalf("%s %v", a, err)
	}
}

// The bitmap must behave as a plain set does.
func TestSubnetAgainstSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	s := mustSubnet(t, SubnetConfig{Prefix: prefix("10.9.0.0/23")})
	set := map[netip.Addr]bool{s.Gateway(): true}
	var order []netip.Addr
	for range 20000 {
		switch {
		case rng.IntN(5) < 3:
			a, err := s.Allocate()
			if (err != nil) != (len(set) == 510) {
				t.Fatalf("%d of 510 in use: %v", len(set), err)
			}
			if err == nil {
				if set[a] {
					t.Fatalf("%s given twice", a)
				}
				set[a] = true
				order = append(order, a)
			}
		case len(order) > 0:
			i := rng.IntN(len(order))
			s.Release(order[i])
			delete(set, order[i])
			order = append(order[:i], order[i+1:]...)
		}
		if s.Used() != len(set) {
			t.Fatalf("used %d, want %d", s.Used(), len(set))
		}
	}
}
