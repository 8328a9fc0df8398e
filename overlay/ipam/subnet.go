package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
)

// Errors that allocations and reservations fail with; the text around them
// names the subnet or the address.
var (
	// ErrExhausted: nothing is free. Something must be released first.
	ErrExhausted = errors.New("no free address")
	// ErrInUse: the address or the subnet is taken.
	ErrInUse = errors.New("already in use")
	// ErrOutside: the address does not belong to the subnet, or is one that no
	// host may have (network and broadcast address).
	ErrOutside = errors.New("outside of the subnet")
	// ErrNoPool: no pool has room for a further subnet.
	ErrNoPool = errors.New("no free subnet in the address pools")
)

const wordBits = 64

// Subnet allocates the addresses of one prefix, IPv4 or IPv6.
type Subnet struct {
	prefix  netip.Prefix
	gateway netip.Addr
	// dynamic is the configured range; invalid for the whole prefix.
	dynamic netip.Prefix
	// first and last bound what Allocate hands out, as offsets into the prefix.
	first, last uint64
	next        uint64
	words       map[uint64]uint64
	// far holds reserved addresses beyond the offsets that a uint64 can count.
	far  map[netip.Addr]struct{}
	used int
	// busy counts those used that Allocate could hand out.
	busy uint64
}

// SubnetConfig describes a subnet.
type SubnetConfig struct {
	Prefix netip.Prefix
	// Gateway is reserved; the first host address if not set.
	Gateway netip.Addr
	// Range, if set, bounds the addresses that Allocate hands out. Reserve takes
	// any of the prefix.
	Range netip.Prefix
	// Reserved are auxiliary addresses that somebody else has.
	Reserved []netip.Addr
}

// NewSubnet returns a subnet of which only the gateway and the reserved
// addresses are taken.
func NewSubnet(c SubnetConfig) (*Subnet, error) {
	if !c.Prefix.IsValid() {
		return nil, errors.New("ipam: the subnet is not a valid prefix")
	}
	s := &Subnet{
		prefix: c.Prefix.Masked(),
		words:  map[uint64]uint64{},
		far:    map[netip.Addr]struct{}{},
	}
	s.first, s.last = hosts(s.prefix)
	if err := s.applyRange(c.Range); err != nil {
		return nil, err
	}
	s.next = s.first
	s.gateway = c.Gateway
	if !s.gateway.IsValid() {
		first, _ := hosts(s.prefix)
		s.gateway = s.addr(first)
	}
	for _, a := range append([]netip.Addr{s.gateway}, c.Reserved...) {
		if err := s.Reserve(a); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Subnet) applyRange(r netip.Prefix) error {
	if !r.IsValid() {
		return nil
	}
	r = r.Masked()
	s.dynamic = r
	if r.Bits() < s.prefix.Bits() || !s.prefix.Contains(r.Addr()) {
		return fmt.Errorf("ipam: range %s: %w %s", r, ErrOutside, s.prefix)
	}
	low, ok := s.offset(r.Addr())
	if !ok {
		return fmt.Errorf("ipam: range %s begins too far into %s", r, s.prefix)
	}
	s.first = max(s.first, low)
	if span := size(r); span-1 < math.MaxUint64-low {
		s.last = min(s.last, low+span-1)
	}
	if s.first > s.last {
		return fmt.Errorf("ipam: range %s: %w (it has only addresses that no host may have)", r, ErrExhausted)
	}
	return nil
}

// String is the prefix, and the range within it if addresses come from that only.
func (s *Subnet) String() string {
	if s.dynamic.IsValid() {
		return fmt.Sprintf("%s, range %s", s.prefix, s.dynamic)
	}
	return s.prefix.String()
}

// Prefix is the subnet's prefix, host bits zero.
func (s *Subnet) Prefix() netip.Prefix { return s.prefix }

// Gateway is the address reserved for the gateway.
func (s *Subnet) Gateway() netip.Addr { return s.gateway }

// Used is the number of addresses taken, gateway and reserved ones included.
func (s *Subnet) Used() int { return s.used }

// Usage is how many of the addresses that Allocate may hand out are taken, and
// how many there are; gateway and reserved ones count where they are among them.
func (s *Subnet) Usage() (taken, of uint64) {
	return s.busy, s.last - s.first + 1
}

// Resume has Allocate go on behind an address, as if it had been handed out
// last: whoever rebuilds a subnet says so, lest what was freed comes back early.
func (s *Subnet) Resume(a netip.Addr) {
	if !s.prefix.Contains(a) {
		return
	}
	if off, ok := s.offset(a); ok && off >= s.first && off < s.last {
		s.next = off + 1
	}
}

// Allocate takes the next free address. It fails with ErrExhausted.
func (s *Subnet) Allocate() (netip.Addr, error) {
	taken, of := s.Usage()
	if taken == of { // not worth a search
		return netip.Addr{}, fmt.Errorf("subnet %s: %w (%d of %d in use)", s.prefix, ErrExhausted, taken, of)
	}
	off, ok := s.find(s.next, s.last)
	if !ok {
		off, _ = s.find(s.first, s.next)
	}
	s.mark(off)
	if s.next = off + 1; off >= s.last {
		s.next = s.first
	}
	return s.addr(off), nil
}

// find returns the first free offset in [from, to].
func (s *Subnet) find(from, to uint64) (uint64, bool) {
	if from > to {
		return 0, false
	}
	for w := from / wordBits; w <= to/wordBits; w++ {
		word := s.words[w]
		if w == from/wordBits {
			word |= 1<<(from%wordBits) - 1 // what lies before from does not count
		}
		if word == math.MaxUint64 {
			continue
		}
		off := w*wordBits + uint64(bits.TrailingZeros64(^word))
		return off, off <= to
	}
	return 0, false
}

// Reserve takes a given address. It fails with ErrInUse or ErrOutside.
func (s *Subnet) Reserve(a netip.Addr) error {
	if !s.usable(a) {
		return fmt.Errorf("address %s: %w %s", a, ErrOutside, s.prefix)
	}
	if s.Taken(a) {
		return fmt.Errorf("address %s of subnet %s: %w", a, s.prefix, ErrInUse)
	}
	if off, ok := s.offset(a); ok {
		s.mark(off)
	} else {
		s.far[a] = struct{}{}
		s.used++
	}
	return nil
}

// Release frees an address; one that is not taken stays free.
func (s *Subnet) Release(a netip.Addr) {
	if !s.Taken(a) {
		return
	}
	s.used--
	off, ok := s.offset(a)
	if !ok {
		delete(s.far, a)
		return
	}
	if off >= s.first && off <= s.last {
		s.busy--
	}
	w := off / wordBits
	if s.words[w] &^= 1 << (off % wordBits); s.words[w] == 0 {
		delete(s.words, w)
	}
}

// Taken says whether the address is of this subnet and in use.
func (s *Subnet) Taken(a netip.Addr) bool {
	if !s.prefix.Contains(a) {
		return false
	}
	off, ok := s.offset(a)
	if !ok {
		_, ok = s.far[a]
		return ok
	}
	return s.words[off/wordBits]&(1<<(off%wordBits)) != 0
}

func (s *Subnet) usable(a netip.Addr) bool {
	if !s.prefix.Contains(a) {
		return false
	}
	first, last := hosts(s.prefix)
	off, ok := s.offset(a)
	return !ok || off >= first && off <= last
}

func (s *Subnet) mark(off uint64) {
	s.words[off/wordBits] |= 1 << (off % wordBits)
	s.used++
	if off >= s.first && off <= s.last {
		s.busy++
	}
}

// offset is the distance of an address of the prefix from its base; false if a
// uint64 cannot hold it (IPv6 prefixes shorter than /64).
func (s *Subnet) offset(a netip.Addr) (uint64, bool) {
	high, low := split(a)
	baseHigh, baseLow := split(s.prefix.Addr())
	return low - baseLow, high == baseHigh
}

func (s *Subnet) addr(off uint64) netip.Addr {
	high, low := split(s.prefix.Addr())
	return join(high, low+off, s.prefix.Addr().Is4())
}

// hosts gives the first and last offset that hosts of a prefix may have. In IPv4
// the network and the broadcast address are not among them (RFC 1122 3.2.1.3;
// there are none in a /31, RFC 3021), in IPv6 the subnet-router anycast address
// is not (RFC 4291 2.6.1).
func hosts(p netip.Prefix) (first, last uint64) {
	last = size(p) - 1
	switch {
	case last <= 1:
		return 0, last
	case p.Addr().Is4():
		return 1, last - 1
	default:
		return 1, last
	}
}

// size is the number of addresses of a prefix, at most what a uint64 can count.
func size(p netip.Prefix) uint64 {
	host := p.Addr().BitLen() - p.Bits()
	if host >= wordBits {
		return math.MaxUint64
	}
	return 1 << host
}

func split(a netip.Addr) (high, low uint64) {
	if a.Is4() {
		b := a.As4()
		return 0, uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

func join(high, low uint64, is4 bool) netip.Addr {
	if is4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(low))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], high)
	binary.BigEndian.PutUint64(b[8:], low)
	return netip.AddrFrom16(b)
}
