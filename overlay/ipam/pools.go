package ipam

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
)

// Pools cuts subnets of one size out of address pools.
type Pools struct {
	pools []netip.Prefix
	// size is the prefix length of an IPv4 subnet; IPv6 subnets are /64, what
	// stateless address configuration expects.
	size  int
	taken []netip.Prefix
	// last is the subnet of each family given out last; the search goes on behind it.
	last map[bool]netip.Prefix
}

const ipv6Bits = 64

// UniqueLocal derives a range of unique local addresses (RFC 4193) from what is
// the cluster's own and random, its ID: fd, and 40 bits of the ID's SHA-256 as the
// global ID. It is the same whenever and wherever it is asked for.
func UniqueLocal(clusterID string) netip.Prefix {
	const bits = 48
	sum := sha256.Sum256([]byte(clusterID))
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, sum[0], sum[1], sum[2], sum[3], sum[4]}), bits)
}

// UniqueLocalMesh is the first subnet of that range, which the mesh network has.
func UniqueLocalMesh(clusterID string) netip.Prefix {
	return netip.PrefixFrom(UniqueLocal(clusterID).Addr(), ipv6Bits)
}

// NewPools returns an allocator over the given pools, tried in order.
func NewPools(pools []netip.Prefix, size int) *Pools {
	p := &Pools{size: size, last: map[bool]netip.Prefix{}}
	for _, pool := range pools {
		p.pools = append(p.pools, pool.Masked())
	}
	return p
}

// Allocate takes the next free subnet of the family (is6) that overlaps neither
// with one taken nor with one to avoid. It fails with ErrNoPool.
func (p *Pools) Allocate(is6 bool, avoid []netip.Prefix) (netip.Prefix, error) {
	// First round: from the last one on; second: from the start.
	for _, after := range []netip.Prefix{p.last[is6], {}} {
		for _, pool := range p.from(after, is6) {
			if s, ok := p.cut(pool, after, avoid); ok {
				p.last[is6] = s
				p.taken = append(p.taken, s)
				return s, nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w (%d subnets in use)", ErrNoPool, len(p.taken))
}

// from lists the pools of the family, beginning with the one that has after.
func (p *Pools) from(after netip.Prefix, is6 bool) []netip.Prefix {
	var out []netip.Prefix
	seen := !after.IsValid()
	for _, pool := range p.pools {
		seen = seen || pool.Overlaps(after)
		if seen && pool.Addr().Is6() == is6 {
			out = append(out, pool)
		}
	}
	return out
}

func (p *Pools) cut(pool, after netip.Prefix, avoid []netip.Prefix) (netip.Prefix, bool) {
	bits := p.size
	if pool.Addr().Is6() {
		bits = ipv6Bits
	}
	bits = max(bits, pool.Bits())
	next := netip.PrefixFrom(pool.Addr(), bits)
	if after.IsValid() && pool.Contains(after.Addr()) {
		next = behind(after, bits)
	}
	for next.IsValid() && pool.Overlaps(next) {
		hit, ok := overlap(next, p.taken)
		if !ok {
			hit, ok = overlap(next, avoid)
		}
		if !ok {
			return next, true
		}
		if hit.Bits() > bits {
			hit = next // something smaller lies in it: go on behind the candidate
		}
		next = behind(hit, bits)
	}
	return netip.Prefix{}, false
}

// Reserve takes a given subnet, of a pool or not. It fails with ErrInUse if it
// overlaps with one that is taken.
func (p *Pools) Reserve(s netip.Prefix) error {
	s = s.Masked()
	if hit, ok := overlap(s, p.taken); ok {
		return fmt.Errorf("subnet %s overlaps with %s: %w", s, hit, ErrInUse)
	}
	p.taken = append(p.taken, s)
	return nil
}

// Release frees a subnet.
func (p *Pools) Release(s netip.Prefix) {
	s = s.Masked()
	p.taken = slices.DeleteFunc(p.taken, func(t netip.Prefix) bool { return t == s })
}

func overlap(s netip.Prefix, among []netip.Prefix) (netip.Prefix, bool) {
	for _, t := range among {
		if s.Overlaps(t) {
			return t, true
		}
	}
	return netip.Prefix{}, false
}

// behind is the first prefix of the given length after p; invalid at the end of
// the address space.
func behind(p netip.Prefix, bits int) netip.Prefix {
	high, low := split(p.Masked().Addr())
	is4 := p.Addr().Is4()
	host := p.Addr().BitLen() - min(p.Bits(), bits)
	if p.Bits() > bits {
		host = p.Addr().BitLen() - bits
		high, low = split(netip.PrefixFrom(p.Addr(), bits).Masked().Addr())
	}
	switch {
	case host < wordBits:
		sum := low + 1<<host
		if is4 && sum > 1<<32-1 {
			return netip.Prefix{}
		}
		if sum < low {
			if high++; high == 0 {
				return netip.Prefix{}
			}
		}
		low = sum
	case host == 128:
		return netip.Prefix{}
	default:
		if high += 1 << (host - wordBits); high == 0 {
			return netip.Prefix{}
		}
	}
	return netip.PrefixFrom(join(high, low, is4), bits)
}
