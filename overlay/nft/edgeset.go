package nft

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// The sets of EdgeTable: as which addresses each container's interface may speak, who may send
// tunnelled packets, and which mark stands for the node that a frame in the tunnel comes from.
const (
	setMACs    = "macs"
	setAddrs4  = "addrs4"
	setAddrs6  = "addrs6"
	setPeers4  = "peers4"
	setPeers6  = "peers6"
	setEntries = "entries"
)

// MarkPrefix is the upper byte of marks that stand for nodes; 'm'.
const MarkPrefix = 0x6d000000

// Speaker is what may come from a device.
type Speaker struct {
	Device string
	// MAC is the only one; Addr is one of its addresses.
	MAC  [6]byte
	Addr netip.Addr
}

// EdgePeer is a node that may send tunnelled packets. Mark stands for it, and MAC, its tunnel
// device's, says that a frame comes from it.
type EdgePeer struct {
	Addr netip.Addr
	MAC  [6]byte
	Mark uint32
}

const deviceSize = 16 // IFNAMSIZ

func edgeSets() []*nftables.Set {
	set := func(name string, types ...nftables.SetDatatype) *nftables.Set {
		key := types[0]
		if len(types) > 1 {
			key, _ = nftables.ConcatSetType(types...) // fails with more types than these
		}
		return &nftables.Set{Table: edgeTable(), Name: name, KeyType: key, Concatenation: len(types) > 1}
	}
	entries := set(setEntries, nftables.TypeEtherAddr)
	entries.IsMap, entries.DataType = true, nftables.TypeMark
	return []*nftables.Set{
		set(setMACs, nftables.TypeIFName, nftables.TypeEtherAddr),
		set(setAddrs4, nftables.TypeIFName, nftables.TypeIPAddr), set(setAddrs6, nftables.TypeIFName, nftables.TypeIP6Addr),
		set(setPeers4, nftables.TypeIPAddr), set(setPeers6, nftables.TypeIP6Addr), entries,
	}
}

func edgeSet(name string) *nftables.Set {
	sets := edgeSets()
	return sets[slices.IndexFunc(sets, func(s *nftables.Set) bool { return s.Name == name })]
}

// elements of one change, by their sets.
type elements map[string][]nftables.SetElement

func (s Speaker) elements() elements {
	name := make([]byte, deviceSize)
	copy(name, s.Device)
	addrs := setAddrs4
	if s.Addr.Is6() {
		addrs = setAddrs6
	}
	return elements{
		setMACs: {{Key: slices.Concat(name, s.MAC[:], []byte{0, 0})}}, // padded to registers
		addrs:   {{Key: slices.Concat(name, s.Addr.AsSlice())}},
	}
}

func (p EdgePeer) elements() elements {
	peers := setPeers4
	if p.Addr.Is6() {
		peers = setPeers6
	}
	return elements{
		peers:      {{Key: p.Addr.AsSlice()}},
		setEntries: {{Key: p.MAC[:], Val: binaryutil.NativeEndian.PutUint32(p.Mark)}},
	}
}

// PutSpeaker lets a container speak so.
func PutSpeaker(s Speaker) error { return changeSets(s.elements(), (*nftables.Conn).SetAddElements) }

// DeleteSpeaker ends it. The device's MAC stays as long as it has another address.
func DeleteSpeaker(s Speaker) error {
	gone := s.elements()
	all, err := Speakers()
	if err != nil {
		return err
	}
	for other := range all {
		if other.Device == s.Device && other.Addr != s.Addr {
			delete(gone, setMACs)
		}
	}
	return changeSets(gone, (*nftables.Conn).SetDeleteElements)
}

// PutEdgePeer lets a node in.
func PutEdgePeer(p EdgePeer) error { return changeSets(p.elements(), (*nftables.Conn).SetAddElements) }

// DeleteEdgePeer shuts it out.
func DeleteEdgePeer(p EdgePeer) error {
	return changeSets(p.elements(), (*nftables.Conn).SetDeleteElements)
}

func changeSets(e elements, do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	return change("sets of table "+EdgeTable, func(c *nftables.Conn) error {
		for name, list := range e {
			if err := do(c, edgeSet(name), list); err != nil {
				return fmt.Errorf("nftables: set %s: %w", name, err)
			}
		}
		return nil
	})
}

// Speakers lists who may speak.
func Speakers() (map[Speaker]bool, error) {
	all, err := readSets(setMACs, setAddrs4, setAddrs6)
	if err != nil {
		return nil, err
	}
	macs := map[string][6]byte{}
	for _, e := range all[setMACs] {
		macs[deviceOf(e.Key)] = [6]byte(e.Key[deviceSize : deviceSize+6])
	}
	out := map[Speaker]bool{}
	for _, e := range slices.Concat(all[setAddrs4], all[setAddrs6]) {
		a, ok := netip.AddrFromSlice(e.Key[deviceSize:])
		mac, has := macs[deviceOf(e.Key)]
		if ok && has {
			out[Speaker{deviceOf(e.Key), mac, a}] = true
		}
	}
	return out, nil
}

func deviceOf(key []byte) string { return string(bytes.TrimRight(key[:deviceSize], "\x00")) }

// EdgePeers lists who may send tunnelled packets, with the marks that stand for them; MAC gives
// the one of a peer by its address.
func EdgePeers(mac func(netip.Addr) [6]byte) (map[EdgePeer]bool, error) {
	all, err := readSets(setPeers4, setPeers6, setEntries)
	if err != nil {
		return nil, err
	}
	marks := map[[6]byte]uint32{}
	for _, e := range all[setEntries] {
		if len(e.Key) >= 6 && len(e.Val) == 4 {
			marks[[6]byte(e.Key[:6])] = binaryutil.NativeEndian.Uint32(e.Val)
		}
	}
	out := map[EdgePeer]bool{}
	for _, e := range slices.Concat(all[setPeers4], all[setPeers6]) {
		if a, ok := netip.AddrFromSlice(e.Key); ok {
			out[EdgePeer{a, mac(a), marks[mac(a)]}] = true
		}
	}
	return out, nil
}

// readSets reads sets by their names; none of a table that is not there.
func readSets(names ...string) (map[string][]nftables.SetElement, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	t, err := find(c, EdgeTable, edgeTable().Family)
	if err != nil || t == nil {
		return nil, err
	}
	sets, err := c.GetSets(t)
	if err != nil {
		return nil, fmt.Errorf("nftables: sets of table %s: %w", EdgeTable, err)
	}
	out := map[string][]nftables.SetElement{}
	for _, s := range sets {
		if !slices.Contains(names, s.Name) {
			continue
		}
		if out[s.Name], err = c.GetSetElements(edgeSet(s.Name)); err != nil {
			return nil, fmt.Errorf("nftables: set %s: %w", s.Name, err)
		}
	}
	return out, nil
}

// notSpeaker: iifname . ether saddr != @macs; iifname . ip saddr != @addrs4; and of IPv6.
func notSpeaker(set string) []expr.Any {
	field := &expr.Payload{DestRegister: afterName, Base: expr.PayloadBaseNetworkHeader, Offset: source4, Len: 4}
	switch set {
	case setMACs:
		field = &expr.Payload{DestRegister: afterName, Base: expr.PayloadBaseLLHeader, Offset: etherSource, Len: etherSize}
	case setAddrs6:
		field = &expr.Payload{DestRegister: afterName, Base: expr.PayloadBaseNetworkHeader, Offset: source6, Len: 16}
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, field,
		&expr.Lookup{SourceRegister: register, SetName: set, Invert: true},
	}
}

// notPeer: ip saddr != @peers4; or of IPv6.
func notPeer(set string, offset, size uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Lookup{SourceRegister: register, SetName: set, Invert: true},
	}
}

// markByEntry: meta mark set ether saddr map @entries ct mark set meta mark.
func markByEntry() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseLLHeader, Offset: etherSource, Len: etherSize},
		&expr.Lookup{SourceRegister: register, DestRegister: register, IsDestRegSet: true, SetName: setEntries},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register, SourceRegister: true},
		&expr.Ct{Key: expr.CtKeyMARK, Register: register, SourceRegister: true},
	}
}

// markByConnection: ct mark & 0xff000000 == 0x6d000000 meta mark set ct mark.
func markByConnection() []expr.Any {
	return append(ofANode(&expr.Ct{Key: expr.CtKeyMARK, Register: register}),
		&expr.Ct{Key: expr.CtKeyMARK, Register: register},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register, SourceRegister: true})
}

// unmark: meta mark & 0xff000000 == 0x6d000000 meta mark set 0.
func unmark() []expr.Any {
	return append(ofANode(&expr.Meta{Key: expr.MetaKeyMARK, Register: register}),
		&expr.Immediate{Register: register, Data: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register, SourceRegister: true})
}

// ofANode passes on where the mark that load gives stands for a node.
func ofANode(load expr.Any) []expr.Any {
	return append([]expr.Any{load}, masked(0xff000000, expr.CmpOpEq, MarkPrefix)...)
}
