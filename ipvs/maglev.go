package ipvs

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
)

// Sizes of Maglev's table: primes, so that any step visits every entry. Shares
// differ by a percent or so with up to a hundred backends each.
const (
	smallTable = 4093
	largeTable = 65521
)

// MaglevTable gives, for each entry of the table that hashes are looked up in, the
// index of a backend (section 3.4 of the paper). It depends on the backends'
// addresses, ports and weights only, not on their order.
func MaglevTable(backends []Backend) []int {
	if len(backends) == 0 {
		return nil
	}
	size := smallTable
	if len(backends) > 100 {
		size = largeTable
	}
	order := make([]int, len(backends))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return compareBackends(backends[a], backends[b]) })
	at, step := make([]int, len(backends)), make([]int, len(backends))
	for i, b := range backends {
		at[i], step[i] = permutation(b, size)
	}
	table := make([]int, size)
	for i := range table {
		table[i] = -1
	}
	for filled := 0; ; {
		for _, i := range order {
			for range max(backends[i].Weight, 1) {
				for table[at[i]] >= 0 {
					at[i] = (at[i] + step[i]) % size
				}
				table[at[i]] = i
				if filled++; filled == size {
					return table
				}
			}
		}
	}
}

// permutation is where a backend begins to take entries, and how it goes on.
func permutation(b Backend, size int) (at, step int) {
	h := fnv.New128a()
	addr := b.Addr.As16()
	_, _ = h.Write(addr[:])
	_, _ = h.Write(binary.BigEndian.AppendUint16(nil, b.Port))
	sum := h.Sum(nil)
	return int(mix(binary.BigEndian.Uint64(sum)) % uint64(size)), int(mix(binary.BigEndian.Uint64(sum[8:]))%uint64(size-1)) + 1
}

// mix spreads the bits of neighbouring addresses (the finalizer of MurmurHash3).
func mix(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
