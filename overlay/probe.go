package overlay

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/meshd/meshd/overlay/datapath"
)

// Direct frames are sent to a peer only while frames like them are seen to
// arrive: many networks drop addresses that they did not assign. Every askEvery
// each peer on the link is sent a probe, which the program on its device sends
// back (datapath/bpf/direct.h): so its meshd may be away, and ours too, whose
// kernel then keeps what was last found.
const (
	askEvery = 500 * time.Millisecond
	// misses one after the other end it, which costs what was sent for so long.
	misses = 3
	// answers begin it; after it had ended it takes more, so that a link that is
	// lossy now and then is left alone.
	firstAnswers, laterAnswers = 2, 20
)

// probe asks one peer.
type probe struct {
	ifindex int
	own     datapath.MAC
	// from and to are addresses of the mesh network, which no underlay has assigned.
	from, to     netip.Addr
	asker, asked netip.Addr
}

// probes gives those that are to be sent again and again.
func probes(s State, f facts) []probe {
	from, to, ok := probeAddrs(s)
	if !ok || !f.asking || !s.Local.IsValid() {
		return nil
	}
	var out []probe
	for _, p := range s.Peers {
		if path := f.paths[p.Addr]; f.onLink(p) {
			out = append(out, probe{path.Ifindex, path.MAC, from, to, s.Local, p.Addr})
		}
	}
	return out
}

// probeAddrs are the mesh network's gateway, and the last address that it could
// give: the programs take probes for what they are before they look for whom.
func probeAddrs(s State) (from, to netip.Addr, ok bool) {
	for _, n := range s.Networks {
		for _, subnet := range n.Subnets {
			if !n.Mesh || !subnet.Addr().Is4() || subnet.Bits() > 29 {
				continue
			}
			first := subnet.Masked().Addr().As4()
			last := binary.BigEndian.Uint32(first[:]) | (1<<(32-subnet.Bits()) - 1)
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], last-1)
			return subnet.Masked().Addr().Next(), netip.AddrFrom4(b), true
		}
	}
	return netip.Addr{}, netip.Addr{}, false
}

// The ports of a probe, as in datapath/bpf/direct.h.
const (
	probeAsk    = 27905
	probeAnswer = 27906
)

// frame is the probe as it goes to a peer with that MAC: IPv4 (RFC 791), UDP
// (RFC 768) without a checksum, and both nodes' addresses.
func (p probe) frame(mac datapath.MAC) []byte {
	asker, asked := datapath.AddrOf(p.asker), datapath.AddrOf(p.asked)
	const header, datagram = 20, 8 + len(asker) + len(asked)
	ip := []byte{0x45, 0, 0, byte(header + datagram), 0, 0, 0, 0, 64, 17, 0, 0}
	ip = append(append(ip, p.from.AsSlice()...), p.to.AsSlice()...)
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum&0xffff+sum>>16))
	frame := append(append(append([]byte{}, mac[:]...), p.own[:]...), 0x08, 0x00)
	frame = append(frame, ip...)
	frame = binary.BigEndian.AppendUint16(frame, probeAnswer)
	frame = binary.BigEndian.AppendUint16(frame, probeAsk)
	frame = append(frame, 0, byte(datagram), 0, 0)
	return append(append(frame, asker[:]...), asked[:]...)
}

// reach is whether direct frames arrive at a peer and come back.
type reach struct {
	direct bool
	// ended: they did once, and then did not.
	ended bool
	// streak counts probes that say otherwise than direct, one after the other.
	streak int
	// last is when the newest answer came.
	last time.Duration
}

// next is what it is after a probe; last is when the newest answer came.
func (r reach) next(last time.Duration) reach {
	answered := last > r.last
	r.last = last
	if answered == r.direct {
		r.streak = 0
		return r
	}
	r.streak++
	switch {
	case r.direct && r.streak >= misses:
		return reach{ended: true, last: last}
	case !r.direct && !r.ended && r.streak >= firstAnswers, !r.direct && r.streak >= laterAnswers:
		return reach{direct: true, last: last}
	}
	return r
}

// adoptDirect takes over what an earlier process has found out, or, where
// nothing is to be sent directly any more, ends it before a peer stops to take it.
func (o *Overlay) adoptDirect() error {
	o.reached = map[netip.Addr]reach{}
	for object := range o.held {
		d, ok := object.(directObject)
		if !ok {
			continue
		}
		if !o.cfg.Direct {
			if err := o.run([]op{{object: object, remove: true}}); err != nil {
				return err
			}
			continue
		}
		o.reached[d.addr.Netip()] = reach{direct: true}
	}
	return nil
}

// probe asks until ctx ends.
func (o *Overlay) probe(ctx context.Context) {
	timer := time.NewTimer(askEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		o.mu.Lock()
		if err := o.probeLocked(); err != nil {
			o.cfg.Logger.Debug("direct routing: peers were not asked", "error", err)
		}
		if _, rotating := o.ring.Rotating(); rotating {
			_ = o.reconcile(false) // to see which peers have the new key; what fails is tried again by Run
		}
		o.mu.Unlock()
		timer.Reset(askEvery) // not a ticker: an answer has its time, however late we are
	}
}

// probeLocked looks what came of the probes before, and sends new ones.
func (o *Overlay) probeLocked() error {
	if len(o.probes) == 0 {
		return nil
	}
	last, err := o.kernel.answers()
	if err != nil {
		return err
	}
	changed := false
	reached := make(map[netip.Addr]reach, len(o.probes))
	for _, p := range o.probes {
		before := o.reached[p.asked]
		now := before.next(last[p.asked])
		reached[p.asked] = now
		if now.direct != before.direct {
			changed = true
			o.cfg.Logger.Info("packets to a peer change their way", "peer", p.asked, "direct", now.direct)
		}
	}
	o.reached = reached
	moved, err := o.kernel.ask(o.probes)
	if changed || moved {
		// What is not done now is tried again by Run.
		_ = o.reconcile(false)
	}
	return err
}
