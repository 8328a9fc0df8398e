package ipvs

import (
	"net/netip"
	"slices"
	"testing"
)

func tasks(n int) []Backend {
	var out []Backend
	for i := range n {
		out = append(out, Backend{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})})
	}
	return out
}

func owners(backends []Backend) []netip.Addr {
	var out []netip.Addr
	for _, i := range MaglevTable(backends) {
		out = append(out, backends[i].Addr)
	}
	return out
}

func TestMaglevSharesEvenly(t *testing.T) {
	for _, n := range []int{1, 2, 10, 100, 300} {
		table := MaglevTable(tasks(n))
		got := make([]int, n)
		for _, i := range table {
			got[i]++
		}
		if fair := len(table) / n; slices.Min(got) < fair-1 || slices.Max(got) > fair+1 {
			t.Errorf("%d backends have between %d and %d entries of %d", n, slices.Min(got), slices.Max(got), len(table))
		}
	}
	if MaglevTable(nil) != nil {
		t.Error("a table of nothing")
	}
}

func TestMaglevWeights(t *testing.T) {
	b := tasks(2)
	b[1].Weight = 3
	n := 0
	table := MaglevTable(b)
	for _, i := range table {
		n += i
	}
	if share := float64(n) / float64(len(table)); share < 0.74 || share > 0.76 {
		t.Errorf("weight 3 of 4 has %.3f", share)
	}
}

func TestMaglevDoesNotDependOnTheOrder(t *testing.T) {
	b := tasks(9)
	want := owners(b)
	slices.Reverse(b)
	if !slices.Equal(owners(b), want) {
		t.Error("another order gives another table")
	}
}

// When one of many goes, hardly anybody else's connections move.
func TestMaglevKeepsWhatItCan(t *testing.T) {
	b := tasks(20)
	before := owners(b)
	after := owners(slices.Delete(slices.Clone(b), 7, 8))
	moved := 0
	for i := range before {
		if before[i] != b[7].Addr && before[i] != after[i] {
			moved++
		}
	}
	if share := float64(moved) / float64(len(before)); share > 0.08 {
		t.Errorf("%.1f%% of the others' entries moved", 100*share)
	}
}
