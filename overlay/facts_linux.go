package overlay

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/nft"
)

func (k *linuxKernel) facts(s State, fresh bool) (facts, error) {
	devices, err := k.door.Devices()
	if err != nil {
		return facts{}, err
	}
	f := facts{mtu: defaultMTU, admit: k.cfg.Admit, ciphers: map[string]cipher{}, ports: portsOf(devices)}
	for _, d := range devices {
		switch {
		case d.Name == link.VXLANName && d.Up && d.VXLANPort == s.VXLANPort:
			f.tunnel = d.Index
		case d.WireGuard:
			f.ciphers[d.Name] = cipher{ifindex: d.Index}
		case d.Name == "lo":
			f.loopback = d.Index
		}
	}
	return f, errors.Join(k.underlay(&f, devices, s.Local), k.forwarding(&f), k.pathsTo(&f, devices, s.Peers, fresh))
}

func (k *linuxKernel) attached() ([]port, error) {
	devices, err := k.door.Devices()
	return portsOf(devices), err
}

// portsOf are the containers' interfaces among a node's devices, by ID.
func portsOf(devices map[int]link.Device) []port {
	names := make(map[string]bool, len(devices))
	for _, d := range devices {
		names[d.Name] = true
	}
	var out []port
	for _, d := range devices {
		if a, ok := decodeAlias(d.Alias); ok && d.IsHost() {
			out = append(out, port{a, d.Index, names[link.PeerName(a.ID)], d.NetNsID})
		}
	}
	slices.SortFunc(out, func(a, b port) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// forwarding looks at iptables' tables.
func (k *linuxKernel) forwarding(f *facts) (err error) {
	if f.forwarding, err = nft.ForwardingOf(false); err == nil {
		f.forwarding6, err = nft.ForwardingOf(true)
	}
	if err == nil && f.forwarding == nft.ForwardingDropped && !k.warned {
		k.warned = true
		k.cfg.Logger.Warn("iptables drops forwarded packets by default and has no chain DOCKER-USER, so containers of the mesh do not reach beyond this node",
			"remedy", "iptables -I FORWARD -i mv+ -j ACCEPT; iptables -I FORWARD -o mv+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	}
	return err
}

// pathsTo asks for the way to each peer that is not known, or to all: one call
// of some 10 us each.
func (k *linuxKernel) pathsTo(f *facts, devices map[int]link.Device, peers []Peer, fresh bool) error {
	known := k.paths
	if fresh {
		known = nil
	}
	f.paths = make(map[netip.Addr]link.Path, len(peers))
	for _, p := range peers {
		path, ok := known[p.Addr]
		if !ok && p.Addr.IsValid() {
			var err error
			if path, ok, err = k.door.PathTo(p.Addr, devices); err != nil {
				return err
			}
		}
		if !ok {
			continue
		}
		f.paths[p.Addr] = path
		if fresh && f.onLink(p) {
			if err := k.door.Resolve(link.Neighbour{Ifindex: path.Ifindex, Addr: p.Addr}); err != nil {
				return err
			}
		}
	}
	k.paths = f.paths
	err := k.learnAll(f, peers)
	f.macs = maps.Clone(k.macs)
	return err
}

// underlay finds the devices that have an address of the node, and the MTU: that
// of the device which has the local address, or else of the default route.
func (k *linuxKernel) underlay(f *facts, devices map[int]link.Device, local netip.Addr) error {
	byAddr, byRoute, addressed, err := k.door.Underlay(local)
	if err != nil {
		return err
	}
	outside := append(byAddr, byRoute...)
	for i, index := range append(outside, addressed...) {
		d, ok := devices[index]
		if !ok || d.Ours() || !d.Ethernet || slices.Contains(f.underlay, index) {
			continue
		}
		if len(f.underlay) == 0 && i < len(outside) {
			f.mtu = d.MTU
		}
		f.underlay = append(f.underlay, index)
	}
	return nil
}
