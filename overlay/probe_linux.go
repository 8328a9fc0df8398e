package overlay

import (
	"errors"
	"maps"
	"net/netip"
	"time"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
)

// ask sends frames past the node's own packet filter, as the programs do. A peer
// whose MAC is not known yet is looked for instead.
func (k *linuxKernel) ask(probes []probe) (moved bool, err error) {
	neighbours, err := k.door.KnownNeighbours()
	if err != nil {
		return false, err
	}
	before := maps.Clone(k.macs)
	var errs []error
	for _, p := range probes {
		n := link.Neighbour{Ifindex: p.ifindex, Addr: p.asked}
		mac, known := neighbours[n]
		if !known {
			errs = append(errs, k.door.Resolve(n))
			continue
		}
		k.learn(n, mac)
		errs = append(errs, k.door.SendFrame(p.ifindex, p.frame(mac)))
	}
	return !maps.Equal(before, k.macs), errors.Join(errs...)
}

// learn notes the MAC of a peer with an IPv6 address. A neighbour that the kernel
// forgets for a while keeps the one it had.
func (k *linuxKernel) learn(n link.Neighbour, mac [6]byte) {
	if !is6(n.Addr) {
		return
	}
	if k.macs == nil {
		k.macs = map[netip.Addr]datapath.MAC{}
	}
	k.macs[n.Addr] = mac
}

// learnAll notes the MACs of such peers on the link that are not known yet.
func (k *linuxKernel) learnAll(f *facts, peers []Peer) error {
	var unknown []link.Neighbour
	for _, p := range peers {
		if _, known := k.macs[p.Addr]; !known && is6(p.Addr) && f.onLink(p) {
			unknown = append(unknown, link.Neighbour{Ifindex: f.paths[p.Addr].Ifindex, Addr: p.Addr})
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	neighbours, err := k.door.KnownNeighbours()
	for _, n := range unknown {
		if mac, ok := neighbours[n]; ok {
			k.learn(n, mac)
		}
	}
	return err
}

func (k *linuxKernel) answers() (map[netip.Addr]time.Duration, error) {
	out := map[netip.Addr]time.Duration{}
	if k.path == nil {
		return out, nil // nobody was asked
	}
	err := readTable(k.path.Answers, func(a datapath.Addr, at uint64) { out[a.Netip()] = time.Duration(at) })
	return out, err
}
