package ipam

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Pool is a range that subnets of one size are cut from.
type Pool struct {
	Prefix netip.Prefix
	// Size is the prefix length of its subnets. A pool smaller than that is one subnet.
	Size int
}

// IPv6Size is the prefix length of IPv6 subnets, what stateless address
// configuration expects.
const IPv6Size = 64

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
	return netip.PrefixFrom(UniqueLocal(clusterID).Addr(), IPv6Size)
}

// DefaultSize is the prefix length of subnets where the user names no pool, as
// long as half of DefaultRange lasts.
const DefaultSize = 18

// DefaultRange is where subnets come from if the user names no pool.
func DefaultRange() netip.Prefix { return netip.MustParsePrefix("10.0.0.0/8") }

// DefaultPools parts DefaultRange: 512 networks have room for 16,381 tasks and
// virtual addresses each, the next 1,024 for 4,093, and 16,384 more for 253. So
// neither does a network fill up early, nor do many networks run out of subnets.
func DefaultPools() []Pool {
	return []Pool{
		{netip.MustParsePrefix("10.0.0.0/9"), DefaultSize},
		{netip.MustParsePrefix("10.128.0.0/10"), 20},
		{netip.MustParsePrefix("10.192.0.0/10"), 24},
	}
}

// Pools cuts subnets out of address pools.
type Pools struct {
	pools []Pool
	// taken is in the order of addresses; none of them overlap.
	taken []netip.Prefix
	// last is the subnet of each kind given out last; the search goes on behind it.
	last map[kind]netip.Prefix
}

// kind is what is alike in subnets that may stand for one another.
type kind struct {
	is6  bool
	size int
}

func (p Pool) kind() kind { return kind{p.Prefix.Addr().Is6(), p.Size} }

// NewPools returns an allocator over the given pools, tried in order; those of
// one family and size count as one.
func NewPools(pools []Pool) *Pools {
	p := &Pools{last: map[kind]netip.Prefix{}}
	for _, pool := range pools {
		p.pools = append(p.pools, Pool{pool.Prefix.Masked(), max(pool.Size, pool.Prefix.Bits())})
	}
	return p
}

// Allocate takes the next free subnet of the family (is6) that overlaps neither
// with one taken nor with one to avoid. It fails with ErrNoPool.
func (p *Pools) Allocate(is6 bool, avoid []netip.Prefix) (netip.Prefix, error) {
	for _, k := range p.kinds(is6) {
		// First round: from the last one on; second: from the start.
		for _, after := range []netip.Prefix{p.last[k], {}} {
			for _, pool := range p.from(after, k) {
				if s, ok := p.cut(pool, after, avoid); ok {
					p.last[k] = s
					p.take(s)
					return s, nil
				}
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w (%s; %d subnets in use, %d nodes and routes to keep clear of)", ErrNoPool, p.names(is6), len(p.taken), len(avoid))
}

// Resume has Allocate go on behind a subnet, as if it had been given out last.
func (p *Pools) Resume(s netip.Prefix) {
	for _, pool := range p.pools {
		if pool.Size == s.Bits() && pool.Prefix.Contains(s.Addr()) {
			p.last[pool.kind()] = s.Masked()
		}
	}
}

func (p *Pools) kinds(is6 bool) []kind {
	var out []kind
	for _, pool := range p.pools {
		if k := pool.kind(); k.is6 == is6 && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

func (p *Pools) names(is6 bool) string {
	var out []string
	for _, pool := range p.pools {
		if pool.kind().is6 == is6 {
			out = append(out, pool.Prefix.String())
		}
	}
	return strings.Join(out, ", ")
}

// from lists the pools of a kind, beginning with the one that has after.
func (p *Pools) from(after netip.Prefix, k kind) []Pool {
	var out []Pool
	seen := !after.IsValid()
	for _, pool := range p.pools {
		if pool.kind() != k {
			continue
		}
		if seen = seen || pool.Prefix.Overlaps(after); seen {
			out = append(out, pool)
		}
	}
	return out
}

func (p *Pools) cut(pool Pool, after netip.Prefix, avoid []netip.Prefix) (netip.Prefix, bool) {
	bits := pool.Size
	next := netip.PrefixFrom(pool.Prefix.Addr(), bits)
	if after.IsValid() && pool.Prefix.Contains(after.Addr()) {
		next = behind(after, bits)
	}
	for next.IsValid() && pool.Prefix.Overlaps(next) {
		hit, ok := p.overlapping(next)
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
	if hit, ok := p.overlapping(s); ok {
		return fmt.Errorf("subnet %s overlaps with %s: %w", s, hit, ErrInUse)
	}
	p.take(s)
	return nil
}

func (p *Pools) take(s netip.Prefix) {
	i, _ := p.place(s)
	p.taken = slices.Insert(p.taken, i, s)
}

// place is where a subnet stands among those taken, or would stand.
func (p *Pools) place(s netip.Prefix) (int, bool) {
	return slices.BinarySearchFunc(p.taken, s, netip.Prefix.Compare)
}

// overlapping gives a taken subnet that overlaps with s. As the taken ones do not
// overlap each other, only its neighbours can.
func (p *Pools) overlapping(s netip.Prefix) (netip.Prefix, bool) {
	i, _ := p.place(s)
	for _, j := range []int{i - 1, i} {
		if j >= 0 && j < len(p.taken) && p.taken[j].Overlaps(s) {
			return p.taken[j], true
		}
	}
	return netip.Prefix{}, false
}

// Release frees a subnet.
func (p *Pools) Release(s netip.Prefix) {
	if i, ok := p.place(s.Masked()); ok {
		p.taken = slices.Delete(p.taken, i, i+1)
	}
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
