package wireguard

import (
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// model is a device as WireGuard's documents say that one behaves.
type model struct {
	d     wgtypes.Device
	owner map[netip.Addr]wgtypes.Key
}

func (m *model) find(key wgtypes.Key) int {
	return slices.IndexFunc(m.d.Peers, func(p wgtypes.Peer) bool { return p.PublicKey == key })
}

func (m *model) configure(t *testing.T, c wgtypes.Config, now time.Time) {
	t.Helper()
	if c.PrivateKey != nil {
		m.d.PrivateKey = *c.PrivateKey
	}
	if c.ListenPort != nil {
		m.d.ListenPort = *c.ListenPort
	}
	for _, pc := range c.Peers {
		i := m.find(pc.PublicKey)
		switch {
		case pc.Remove && i >= 0:
			m.d.Peers = slices.Delete(m.d.Peers, i, i+1)
			maps.DeleteFunc(m.owner, func(_ netip.Addr, k wgtypes.Key) bool { return k == pc.PublicKey })
			continue
		case pc.Remove, pc.ReplaceAllowedIPs:
			t.Fatalf("a moment without addresses, or nobody to remove: %+v", pc)
		case i < 0 && pc.UpdateOnly:
			t.Fatalf("update of nobody: %+v", pc)
		case i < 0:
			m.d.Peers, i = append(m.d.Peers, wgtypes.Peer{PublicKey: pc.PublicKey, LastHandshakeTime: now}), len(m.d.Peers)
		}
		if pc.Endpoint != nil {
			m.d.Peers[i].Endpoint = pc.Endpoint
		}
		if pc.PersistentKeepaliveInterval != nil {
			m.d.Peers[i].PersistentKeepaliveInterval = *pc.PersistentKeepaliveInterval
		}
		for _, ip := range pc.AllowedIPs {
			a, _ := addrOf(ip)
			m.owner[a] = pc.PublicKey
		}
	}
	for i := range m.d.Peers {
		m.d.Peers[i].AllowedIPs = nil
		for a, k := range m.owner {
			if k == m.d.Peers[i].PublicKey {
				m.d.Peers[i].AllowedIPs = append(m.d.Peers[i].AllowedIPs, netOf(a))
			}
		}
	}
}

// Random states one after the other: each is reached, and what stays is never touched.
func TestChangesLeadWhereTheyShould(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	for range 200 {
		m := &model{owner: map[netip.Addr]wgtypes.Key{}}
		for range 10 {
			want := randomDevice(rng)
			before := maps.Clone(m.owner)
			c := change(want, &m.d, nil, now)
			if c != nil {
				m.configure(t, *c, now)
			}
			if again := change(want, &m.d, nil, now); again != nil {
				t.Fatalf("there is still something to do: %+v", again)
			}
			got := map[netip.Addr]Key{}
			for a, k := range m.owner {
				got[a] = Key(k)
			}
			if !maps.Equal(got, want.owners()) || len(m.d.Peers) != len(want.Peers) {
				t.Fatalf("have %v, want %v", got, want.owners())
			}
			if c != nil {
				untouched(t, *c, before, want.owners())
			}
		}
	}
}

// untouched: an address that stays with its peer is in no change.
func untouched(t *testing.T, c wgtypes.Config, before map[netip.Addr]wgtypes.Key, after map[netip.Addr]Key) {
	t.Helper()
	for _, pc := range c.Peers {
		for _, ip := range pc.AllowedIPs {
			a, _ := addrOf(ip)
			if was, had := before[a]; had && after[a] == Key(was) {
				t.Fatalf("%s stays with its peer, and is taken from it for a moment", a)
			}
		}
	}
}

func randomDevice(rng *rand.Rand) Device {
	d := Device{Private: Key{byte(rng.IntN(2))}, Port: uint16(1 + rng.IntN(2)), Peers: map[Key]Peer{}}
	for a := range byte(6) {
		key := Key{'p', byte(rng.IntN(5))}
		p := d.Peers[key]
		p.Endpoint = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, key[1]}), 51820)
		if rng.IntN(3) > 0 {
			p.Allowed = append(p.Allowed, netip.AddrFrom4([4]byte{10, 0, 0, a}))
		}
		d.Peers[key] = p
	}
	return d
}

func TestARoamedPeerIsLeftAlone(t *testing.T) {
	now := time.Now()
	here, there := netip.MustParseAddrPort("192.0.2.1:51820"), netip.MustParseAddrPort("198.51.100.1:999")
	for what, c := range map[string]struct {
		published, wanted netip.AddrPort
		heard             time.Duration
		set               bool
	}{
		"it was heard from elsewhere":      {here, here, time.Minute, false},
		"and is not any more":              {here, here, time.Hour, true},
		"it says that it has moved":        {netip.MustParseAddrPort("192.0.2.9:51820"), here, time.Minute, true},
		"after a restart, heard":           {netip.AddrPort{}, here, time.Minute, false},
		"it is where it says that it is":   {here, there, time.Hour, false},
		"after a restart, not heard of":    {netip.AddrPort{}, here, time.Hour, true},
		"it says where it was heard from ": {here, there, time.Minute, false},
	} {
		key := Key{1}
		have := &wgtypes.Device{Peers: []wgtypes.Peer{{
			PublicKey: wgtypes.Key(key), Endpoint: net.UDPAddrFromAddrPort(there), PersistentKeepaliveInterval: keepalive, LastHandshakeTime: now.Add(-c.heard),
		}}}
		got := change(Device{Peers: map[Key]Peer{key: {Endpoint: c.wanted}}}, have, map[Key]netip.AddrPort{key: c.published}, now)
		if set := got != nil; set != c.set {
			t.Errorf("%s: %+v", what, got)
		}
	}
}
