package overlay

import (
	"errors"
	"maps"
	"slices"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/nft"
)

func (k *linuxKernel) read(f facts) (objects, error) {
	held := objects{}
	steps := []func(objects) error{k.readDevices, k.readRoutes, k.readMasquerade, k.readAccept}
	if k.leftovers {
		steps = append(steps, k.readForwarding)
	}
	if k.path != nil {
		steps = append(steps, k.readTables, k.readSlots, func(held objects) error { return k.readHooks(held, f) })
	}
	for _, step := range steps {
		if err := step(held); err != nil {
			return nil, err
		}
	}
	return held, nil
}

func (k *linuxKernel) readDevices(held objects) error {
	for _, path := range append(slices.Collect(maps.Keys(switches())), link.Forwarding6) {
		value, err := link.Sysctl(path)
		if err != nil {
			return err
		}
		held[sysctlObject{path}] = value
	}
	devices, err := k.door.Devices()
	if err != nil {
		return err
	}
	for _, d := range devices {
		if !d.Up {
			continue
		}
		switch d.Name {
		case link.VXLANName:
			held[vxlanObject{}] = tunnelOf(d)
			if k.path == nil {
				held[tunnelMTUObject{}] = d.MTU
			}
		case link.GatewayName:
			held[gatewayDevObject{}] = present{}
		}
		if a, ok := decodeAlias(d.Alias); ok && d.IsHost() {
			held[portObject{a.ID}], held[mtuObject{a.ID}] = present{}, d.MTU
			if k.path == nil {
				held[silentObject{a.ID}] = datapath.MAC(d.MAC)
			}
		}
	}
	addrs, err := k.door.GatewayAddrs()
	for a := range addrs {
		held[gatewayObject{a}] = present{}
	}
	return err
}

// tunnelOf is the tunnel device as it is, with its MAC where the kernel forwards into it.
func tunnelOf(d link.Device) link.VXLAN {
	if d.Silent {
		return link.VXLAN{Port: d.VXLANPort, MAC: d.MAC}
	}
	return link.VXLAN{Port: d.VXLANPort}
}

func (k *linuxKernel) readTables(held objects) error {
	return errors.Join(
		readTable(k.path.Settings, func(_ uint32, v datapath.Settings) {
			if v.VXLANIfindex != 0 {
				held[settingsObject{}] = v
			}
		}),
		readTable(k.path.Self, func(_ uint32, v datapath.Self) {
			if v != (datapath.Self{}) {
				held[selfObject{}] = v
			}
		}),
		readTable(k.path.Subnets, func(key datapath.SubnetKey, vni uint32) { held[subnetObject{key}] = vni }),
		readTable(k.path.Encrypted, func(vni uint32, _ uint32) { held[encryptedObject{vni}] = present{} }),
		readTable(k.path.Ciphers, func(a datapath.Addr, c datapath.Cipher) { held[cipherObject{a}] = c }),
		readTable(k.path.Inside, func(a, node datapath.Addr) { held[insideObject{a}] = node }),
		readTable(k.path.Endpoints, func(key datapath.EndpointKey, e datapath.Endpoint) { held[endpointObject{key}] = e }),
		readTable(k.path.Ifaces, func(index uint32, i datapath.Iface) { held[ifaceObject{index}] = i }),
		readTable(k.path.OnLink, func(a datapath.Addr, on datapath.OnLink) { held[onLinkObject{a}] = on }),
		readTable(k.path.Direct, func(a datapath.Addr, index uint32) { held[directObject{a}] = index }),
		readTable(k.path.MTU, func(_ uint32, mtu uint32) {
			if mtu != 0 {
				held[tunnelMTUObject{}] = int(mtu)
			}
		}),
		readTable(k.path.Switches, func(_ uint32, v uint32) {
			if v != 0 {
				held[switchesObject{}] = v
			}
		}),
		readTable(k.path.Peers, func(a datapath.Addr, _ uint32) { held[peerObject{a}] = present{} }),
	)
}

func readTable[K, V comparable](t datapath.Table[K, V], each func(K, V)) error {
	all, err := t.All()
	for key, v := range all {
		each(key, v)
	}
	return err
}

func (k *linuxKernel) readRoutes(held objects) error {
	routes, err := k.door.Routes()
	if err != nil {
		return err
	}
	for to, r := range routes {
		if insidePrefix().Contains(to) {
			held[insideRoute{to}] = r
			continue
		}
		held[routeObject{to}] = r
	}
	devices, err := k.door.Devices()
	if err != nil {
		return err
	}
	neighbours, err := k.door.Neighbours()
	for n, mac := range neighbours {
		if devices[n.Ifindex].IsHost() {
			held[neighbourObject{n}] = datapath.MAC(mac)
		}
	}
	return err
}

func (k *linuxKernel) readMasquerade(held objects) error {
	subnets, err := nft.Masquerade()
	if err != nil {
		return err
	}
	if key := nft.Key(subnets); key != "" {
		held[masqueradeObject{}] = key
	}
	tunnel, err := nft.Tunnel()
	if tunnel.IsValid() {
		held[untrackedObject{}] = tunnel
	}
	return err
}

func (k *linuxKernel) readAccept(held objects) error {
	for _, v6 := range []bool{false, true} {
		a, err := nft.AcceptingOf(v6)
		if err != nil {
			return err
		}
		if a != nft.AcceptsNothing {
			held[acceptObject{v6}] = a
		}
		admits, err := nft.Admits(v6)
		if err != nil {
			return err
		}
		if admits {
			held[admitObject{v6}] = present{}
		}
	}
	return nil
}

func (k *linuxKernel) readSlots(held objects) error {
	slots, err := k.path.Slots()
	for slot, ours := range slots {
		if ours {
			held[slotObject{slot}] = present{}
		}
	}
	return err
}

func (k *linuxKernel) readHooks(held objects, f facts) error {
	if !k.filters {
		hooks, err := k.path.Attached()
		for h := range hooks {
			held[hookObject{h}] = present{}
		}
		return err
	}
	indexes := append([]int{f.tunnel, f.loopback}, f.underlay...)
	for _, p := range f.ports {
		indexes = append(indexes, p.ifindex)
	}
	for _, c := range f.ciphers {
		indexes = append(indexes, c.ifindex)
	}
	for _, index := range indexes {
		if index == 0 {
			continue
		}
		name, id, err := k.door.Filter(index)
		if err != nil {
			return err
		}
		h := datapath.Hook{Program: datapath.Program(name), Ifindex: index}
		// A filter of an earlier process is missing until it is swapped for ours.
		if ours, err := k.path.ID(h.Program); err != nil {
			return err
		} else if name != "" && ours == id {
			held[hookObject{h}] = present{}
		}
	}
	return nil
}
