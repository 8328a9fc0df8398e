package overlay

import (
	"crypto/sha256"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/wireguard"
)

// cipher is a WireGuard device as it is.
type cipher struct {
	ifindex int
	peers   map[wireguard.Key]wireguard.Status
}

const (
	// defaultOverlap is how long a former key is kept after all peers were seen to have
	// the new one: they see that for themselves, within half a second if they can.
	defaultOverlap = 10 * time.Second
	// longestRotation is how long peers that do not take the new key are waited for.
	longestRotation = time.Hour
)

// encrypted says whether the network's packets never travel in the clear.
func (n Network) encrypted() bool { return n.Transport == TransportWireGuard }

// partners are the peers that this node has encrypted networks in common with. Both
// see that alike, since each knows of the other's containers on its own networks.
func partners(s State) []Peer {
	encrypted, on := map[uint32]bool{}, map[netip.Addr]bool{}
	for _, n := range s.Networks {
		encrypted[n.VNI] = n.encrypted()
		if n.encrypted() && n.Mesh { // every node has a part in it
			return slices.Clone(s.Peers)
		}
	}
	for _, e := range s.Endpoints {
		if encrypted[e.VNI] {
			on[e.Node] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(s.Peers), func(p Peer) bool { return !on[p.Addr] })
}

// key is the peer's of an epoch.
func (p Peer) key(epoch uint64) (wireguard.PublicKey, bool) {
	i := slices.IndexFunc(p.Keys, func(k wireguard.PublicKey) bool { return k.Epoch == epoch })
	if i < 0 {
		return wireguard.PublicKey{}, false
	}
	return p.Keys[i], true
}

// handshake is when the last one was with a peer by keys of an epoch; zero: never.
func (f facts) handshake(p Peer, epoch uint64) time.Time {
	key, _ := p.key(epoch)
	return f.ciphers[wireguard.DeviceName(epoch)].peers[key.Key].Handshake
}

// cipherTo is the device that packets to a peer go to: that of the newest keys that
// both are seen to have, or else of the oldest; zero: they have none in common.
func (f facts) cipherTo(p Peer) (ifindex int) {
	for _, own := range f.keys {
		device, there := f.ciphers[wireguard.DeviceName(own.Epoch)]
		if _, common := p.key(own.Epoch); !there || !common {
			continue
		}
		ifindex = device.ifindex
		if !f.handshake(p, own.Epoch).IsZero() {
			break
		}
	}
	return ifindex
}

// wantCiphers gives what leads packets into WireGuard devices, and out of them.
func wantCiphers(w objects, s State, f facts) {
	for _, n := range s.Networks {
		if n.encrypted() {
			w[encryptedObject{n.VNI}] = present{}
		}
	}
	for _, c := range f.ciphers {
		w[hookObject{datapath.Hook{Program: datapath.Decrypted, Ifindex: c.ifindex}}] = present{}
	}
	inside := s.mesh().encrypted()
	for _, p := range partners(s) {
		ifindex := f.cipherTo(p)
		if ifindex == 0 || !p.Addr.IsValid() {
			continue
		}
		c := datapath.Cipher{Ifindex: uint32(ifindex)}
		if inside {
			at := insideAddr(p.ID)
			c.Inside = datapath.AddrOf(at)
			w[insideObject{c.Inside}] = datapath.AddrOf(p.Addr)
			w[insideRoute{at}] = link.Route{Ifindex: ifindex, Source: insideAddr(s.ID)}
		}
		w[cipherObject{datapath.AddrOf(p.Addr)}] = c
	}
}

// insidePrefix has the addresses that nodes have inside of WireGuard, where the mesh
// network is encrypted: a unique local range (RFC 4193).
func insidePrefix() netip.Prefix { return netip.MustParsePrefix("fd6d:6573:6877::/48") }

// insideAddr is a node's there: it follows from its ID, of which it holds 80 bits.
func insideAddr(id string) netip.Addr {
	a, sum := insidePrefix().Addr().As16(), sha256.Sum256([]byte(id))
	copy(a[6:], sum[:])
	return netip.AddrFrom16(a)
}

// wantCipherDevices gives the WireGuard devices: none where no network is encrypted.
func (o *Overlay) wantCipherDevices(s State) []wireguard.Device {
	if !slices.ContainsFunc(s.Networks, Network.encrypted) {
		return nil
	}
	devices := o.ring.Devices()
	allowed := allowedAddrs(s)
	for i := range devices {
		if s.mesh().encrypted() {
			devices[i].Addr = insideAddr(s.ID)
		}
	}
	for _, p := range partners(s) {
		if s.mesh().encrypted() {
			allowed[p.Addr] = append(allowed[p.Addr], insideAddr(p.ID))
		}
		for _, d := range devices {
			if key, ok := p.key(d.Epoch); ok && p.Addr.IsValid() {
				d.Peers[key.Key] = wireguard.Peer{Endpoint: netip.AddrPortFrom(p.Addr.Unmap(), key.Port), Allowed: allowed[p.Addr]}
			}
		}
	}
	return devices
}

// allowedAddrs are the addresses that each node may send from, encrypted.
func allowedAddrs(s State) map[netip.Addr][]netip.Addr {
	bare := map[uint32]bool{}
	for _, n := range s.Networks {
		bare[n.VNI] = n.encrypted() && !n.Mesh
	}
	out := map[netip.Addr][]netip.Addr{}
	for _, e := range s.Endpoints {
		if bare[e.VNI] && e.Node.IsValid() {
			out[e.Node] = append(out[e.Node], e.Addr)
		}
	}
	return out
}

// putCiphers makes the devices, and says in f how they are. o.mu is held.
func (o *Overlay) putCiphers(s State, f *facts) error {
	if o.state == nil {
		return nil
	}
	err := o.followKeys(s, *f)
	f.keys = o.ring.Public()
	mtu := innerMTU(s, *f, Network{Transport: TransportWireGuard})
	o.ciphers = map[string]cipher{}
	for _, d := range o.wantCipherDevices(s) {
		c, derr := o.kernel.putCipher(d, mtu)
		if err = errors.Join(err, derr); derr == nil {
			o.ciphers[d.Name], f.ciphers[d.Name] = c, c
		}
	}
	return err
}

// removeCiphers removes the devices that are not wanted any more. o.mu is held.
func (o *Overlay) removeCiphers(s State, f facts) error {
	if o.state == nil {
		return nil
	}
	var errs []error
	wanted := o.wantCipherDevices(s)
	for name := range f.ciphers {
		if !slices.ContainsFunc(wanted, func(d wireguard.Device) bool { return d.Name == name }) {
			errs = append(errs, o.kernel.removeCipher(name))
		}
	}
	return errors.Join(errs...)
}

// followKeys has this node's keys be of the cluster's epoch, and ends a rotation when
// all peers have taken part in it. o.mu is held.
func (o *Overlay) followKeys(s State, f facts) error {
	if s.empty() {
		return o.ring.Forget()
	}
	now := time.Now()
	changed, err := o.ring.Follow(s.KeyEpoch, now)
	if since, rotating := o.ring.Rotating(); rotating && err == nil {
		if !moved(s, f) {
			o.moved = time.Time{}
		} else if o.moved.IsZero() {
			o.moved = now
		}
		if now.Sub(since) > longestRotation || !o.moved.IsZero() && now.Sub(o.moved) > o.cfg.KeyOverlap {
			changed, err = true, o.ring.Retire()
			o.moved = time.Time{}
		}
	}
	if changed && err == nil {
		close(o.keysChanged)
		o.keysChanged = make(chan struct{})
	}
	return err
}

// moved says whether all peers that are there have the cluster's newest keys.
func moved(s State, f facts) bool {
	return !slices.ContainsFunc(partners(s), func(p Peer) bool { return !p.Down && f.handshake(p, s.KeyEpoch).IsZero() })
}

// EncryptedPeer says how it stands with a peer that this node has encrypted networks
// in common with.
type EncryptedPeer struct {
	ID   string
	Addr netip.Addr
	Down bool
	// Epoch is that of the keys that packets to it are encrypted by; Keyed: there are such.
	Epoch uint64
	Keyed bool
	wireguard.Status
}

// Unreached says that the peer should be reached encrypted and is not.
func (p EncryptedPeer) Unreached(now time.Time) bool {
	return !p.Down && !(p.Keyed && !p.Silent(now))
}

// EncryptedPeers are as they were seen last.
func (o *Overlay) EncryptedPeers() []EncryptedPeer {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.desired()
	f := facts{ciphers: o.ciphers, keys: o.ring.Public()}
	var out []EncryptedPeer
	for _, p := range partners(s) {
		e := EncryptedPeer{ID: p.ID, Addr: p.Addr, Down: p.Down}
		used := f.cipherTo(p)
		for _, own := range f.keys {
			device := f.ciphers[wireguard.DeviceName(own.Epoch)]
			if key, common := p.key(own.Epoch); common && used != 0 && device.ifindex == used {
				e.Epoch, e.Keyed, e.Status = own.Epoch, true, device.peers[key.Key]
			}
		}
		out = append(out, e)
	}
	return out
}

// Keys are this node's public keys, for its peers, and a channel that is closed when
// they are not the newest any more.
func (o *Overlay) Keys() ([]wireguard.PublicKey, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ring.Public(), o.keysChanged
}
