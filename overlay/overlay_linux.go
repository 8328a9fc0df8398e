package overlay

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/nft"
)

// defaultMTU is Ethernet's, for a node without an underlay yet.
const defaultMTU = 1500

// linuxKernel is the edge to this node.
type linuxKernel struct {
	cfg  Config
	door *link.Door
	path *datapath.Datapath
	// filters: this kernel has no tcx, programs are clsact filters.
	filters bool
	warned  bool
	// paths are what is remembered of the ways to peers.
	paths map[netip.Addr]link.Path
}

func openKernel(cfg Config) (kernel, error) {
	if err := datapath.Mount(bpfDir(cfg.RunDir)); err != nil {
		return nil, err
	}
	door, err := link.Open()
	if err != nil {
		return nil, err
	}
	path, err := datapath.Load(bpfDir(cfg.RunDir))
	if err != nil {
		door.Close()
		return nil, err
	}
	return &linuxKernel{cfg: cfg, door: door, path: path, filters: cfg.NoTCX}, nil
}

func (k *linuxKernel) close() error {
	k.door.Close()
	return k.path.Close()
}

func (k *linuxKernel) drops() (map[string]uint64, error) { return k.path.Drops() }

func (k *linuxKernel) facts(s State, fresh bool) (facts, error) {
	devices, err := k.door.Devices()
	if err != nil {
		return facts{}, err
	}
	names := make(map[string]bool, len(devices))
	for _, d := range devices {
		names[d.Name] = true
	}
	f := facts{mtu: defaultMTU}
	for _, d := range devices {
		switch {
		case d.Name == link.VXLANName && d.Up && d.VXLANPort == s.VXLANPort:
			f.tunnel = d.Index
		case d.Name == "lo":
			f.loopback = d.Index
		case d.IsHost():
			if a, ok := decodeAlias(d.Alias); ok {
				f.ports = append(f.ports, port{a, d.Index, names[link.PeerName(a.ID)]})
			}
		}
	}
	slices.SortFunc(f.ports, func(a, b port) int { return strings.Compare(a.ID, b.ID) })
	return f, errors.Join(k.underlay(&f, devices, s.Local), k.forwarding(&f), k.pathsTo(&f, devices, s.Peers, fresh))
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
		if fresh && f.direct(p) {
			if err := k.door.Resolve(link.Neighbour{Ifindex: path.Ifindex, Addr: p.Addr}); err != nil {
				return err
			}
		}
	}
	k.paths = f.paths
	return nil
}

// underlay finds the node's own devices and their MTU: that of the device which
// has the local address, or else of the default route.
func (k *linuxKernel) underlay(f *facts, devices map[int]link.Device, local netip.Addr) error {
	byAddr, byRoute, err := k.door.Underlay(local)
	if err != nil {
		return err
	}
	for _, index := range append(byAddr, byRoute...) {
		d, ok := devices[index]
		if !ok || d.Ours() || !d.Ethernet || slices.Contains(f.underlay, index) {
			continue
		}
		if len(f.underlay) == 0 {
			f.mtu = d.MTU
		}
		f.underlay = append(f.underlay, index)
	}
	return nil
}

func (k *linuxKernel) read(f facts) (objects, error) {
	held := objects{}
	for _, step := range []func(objects) error{k.readDevices, k.readTables, k.readRoutes, k.readMasquerade, k.readAccept} {
		if err := step(held); err != nil {
			return nil, err
		}
	}
	return held, k.readHooks(held, f)
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
			held[vxlanObject{}] = link.VXLAN{Port: d.VXLANPort}
		case link.GatewayName:
			held[gatewayDevObject{}] = present{}
		}
		if a, ok := decodeAlias(d.Alias); ok && d.IsHost() {
			held[mtuObject{a.ID}] = d.MTU
		}
	}
	addrs, err := k.door.GatewayAddrs()
	for a := range addrs {
		held[gatewayObject{a}] = present{}
	}
	return err
}

func (k *linuxKernel) readTables(held objects) error {
	return errors.Join(
		readTable(k.path.Settings, func(_ uint32, v datapath.Settings) {
			if v.VXLANIfindex != 0 {
				held[settingsObject{}] = v
			}
		}),
		readTable(k.path.Subnets, func(key datapath.SubnetKey, vni uint32) { held[subnetObject{key}] = vni }),
		readTable(k.path.Endpoints, func(key datapath.EndpointKey, e datapath.Endpoint) { held[endpointObject{key}] = e }),
		readTable(k.path.Ifaces, func(index uint32, i datapath.Iface) { held[ifaceObject{index}] = i }),
		readTable(k.path.Direct, func(a datapath.Addr, index uint32) { held[directObject{a}] = index }),
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
	return nil
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
	}
	return nil
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

func (k *linuxKernel) addPort(a Attachment, mtu int) error {
	alias, err := encodeAlias(a)
	if err != nil {
		return err
	}
	mac, err := parseMAC(a.MAC)
	if err != nil {
		return err
	}
	router := routerMAC()
	return k.door.PutVeth(link.Veth{
		ID: a.ID, MTU: mtu, HostMAC: net.HardwareAddr(router[:]), PeerMAC: net.HardwareAddr(mac[:]), Alias: alias,
	})
}

func (k *linuxKernel) removePort(id string) error { return k.door.DeleteDevice(link.HostName(id)) }

func (k *linuxKernel) do(o op) error {
	if o.remove {
		return k.remove(o)
	}
	return k.put(o)
}

func (k *linuxKernel) put(op op) error {
	switch o := op.object.(type) {
	case sysctlObject:
		if o.path == link.Forwarding6 {
			return link.PutForwarding6()
		}
		return link.PutSysctl(o.path, op.value.(string))
	case vxlanObject:
		return k.door.PutVXLAN(op.value.(link.VXLAN))
	case gatewayDevObject:
		return k.door.PutGatewayDevice()
	case gatewayObject:
		return k.door.PutGatewayAddr(o.addr)
	case settingsObject:
		return k.path.Settings.Put(0, op.value.(datapath.Settings))
	case subnetObject:
		return k.path.Subnets.Put(o.key, op.value.(uint32))
	case endpointObject:
		return k.path.Endpoints.Put(o.key, op.value.(datapath.Endpoint))
	case ifaceObject:
		return k.path.Ifaces.Put(o.ifindex, op.value.(datapath.Iface))
	case peerObject:
		return k.path.Peers.Put(o.addr, 1)
	case directObject:
		return k.path.Direct.Put(o.addr, op.value.(uint32))
	case switchesObject:
		return k.path.Switches.Put(0, op.value.(uint32))
	case hookObject:
		return k.attach(o.hook)
	case neighbourObject:
		return k.door.PutNeighbour(o.key, op.value.(datapath.MAC))
	case routeObject:
		return k.door.PutRoute(o.to, op.value.(link.Route))
	case masqueradeObject:
		return masquerade(op.value.(string))
	case acceptObject:
		return nft.PutAccept(o.v6)
	case mtuObject:
		return k.door.PutMTU(o.id, op.value.(int))
	default:
		return fmt.Errorf("overlay: cannot put %T", o)
	}
}

func (k *linuxKernel) remove(op op) error {
	switch o := op.object.(type) {
	case vxlanObject:
		return k.door.DeleteDevice(link.VXLANName)
	case gatewayDevObject:
		return k.door.DeleteDevice(link.GatewayName)
	case gatewayObject:
		return k.door.DeleteGatewayAddr(o.addr)
	case settingsObject:
		return k.path.Settings.Put(0, datapath.Settings{})
	case subnetObject:
		return k.path.Subnets.Delete(o.key)
	case endpointObject:
		return k.path.Endpoints.Delete(o.key)
	case ifaceObject:
		return k.path.Ifaces.Delete(o.ifindex)
	case peerObject:
		return k.path.Peers.Delete(o.addr)
	case directObject:
		return k.path.Direct.Delete(o.addr)
	case switchesObject:
		return k.path.Switches.Put(0, 0)
	case hookObject:
		return k.detach(o.hook)
	case neighbourObject:
		return k.door.DeleteNeighbour(o.key)
	case routeObject:
		return k.door.DeleteRoute(o.to)
	case masqueradeObject:
		return nft.Delete()
	case acceptObject:
		return nft.DeleteAccept(o.v6)
	case mtuObject:
		return nil // it went with the interface
	default:
		return fmt.Errorf("overlay: cannot remove %T", o)
	}
}

// attach puts a program on a device: as a tcx link, or on a kernel without tcx
// as a clsact filter; which of the two shows at the first trial.
func (k *linuxKernel) attach(h datapath.Hook) error {
	if !k.filters {
		err := k.path.Attach(h)
		if !errors.Is(err, datapath.ErrNoTCX) {
			return err
		}
		k.filters = true
	}
	return k.door.PutFilter(h.Ifindex, string(h.Program), k.path.FD(h.Program))
}

func (k *linuxKernel) detach(h datapath.Hook) error {
	if k.filters {
		return k.door.DeleteFilter(h.Ifindex)
	}
	return k.path.Detach(h)
}

func masquerade(key string) error {
	var subnets []netip.Prefix
	for _, s := range strings.Fields(key) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return err
		}
		subnets = append(subnets, p)
	}
	return nft.Put(subnets)
}
