package overlay

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
	"github.com/meshd/meshd/overlay/nft"
	"github.com/meshd/meshd/overlay/wireguard"
)

// defaultMTU is Ethernet's, for a node without an underlay yet.
const defaultMTU = 1500

// linuxKernel is the edge to this node.
type linuxKernel struct {
	cfg  Config
	door *link.Door
	// path is nil with DriverBridge.
	path *datapath.Datapath
	// wg is nil until a WireGuard device is wanted.
	wg *wireguard.Door
	// dropped is what rules counted that are replaced.
	dropped map[string]uint64
	// filters: this kernel has no tcx, programs are clsact filters.
	filters bool
	// leftovers: there may be objects of DriverBridge; it is true with that driver.
	leftovers bool
	warned    bool
	// paths are what is remembered of the ways to peers.
	paths map[netip.Addr]link.Path
	// macs are those of peers with an IPv6 address.
	macs map[netip.Addr]datapath.MAC
}

func openKernel(cfg Config) (kernel, error) {
	door, err := link.Open()
	if err != nil {
		return nil, err
	}
	k := &linuxKernel{cfg: cfg, door: door, dropped: map[string]uint64{}, filters: cfg.NoTCX, leftovers: true}
	if cfg.Driver == DriverBridge {
		err = k.forgetPrograms()
	} else {
		err = k.loadPrograms()
	}
	if err != nil {
		door.Close()
		return nil, err
	}
	return k, nil
}

func (k *linuxKernel) loadPrograms() (err error) {
	if err := datapath.Mount(bpfDir(k.cfg.RunDir)); err != nil {
		return err
	}
	k.path, err = datapath.Load(bpfDir(k.cfg.RunDir))
	return err
}

func (k *linuxKernel) close() error {
	k.door.Close()
	var errs []error
	if k.wg != nil {
		errs = append(errs, k.wg.Close())
	}
	if k.path != nil {
		errs = append(errs, k.path.Close())
	}
	return errors.Join(errs...)
}

func (k *linuxKernel) drops() (map[string]uint64, error) {
	if k.path == nil {
		return k.forwardDrops()
	}
	return k.path.Drops()
}

func (k *linuxKernel) capacities() map[string]int {
	if k.path == nil {
		return nil
	}
	return k.path.Capacities()
}

func (k *linuxKernel) addPort(a Attachment, mtu int) error {
	v, err := vethOf(a, mtu)
	if err != nil {
		return err
	}
	if err := k.door.PutVeth(v); err != nil || k.path != nil {
		return err
	}
	return k.door.Silence(a.ID, [6]byte(v.PeerMAC))
}

func (k *linuxKernel) rejoinPort(p port, mtu int, gateways []netip.Addr) (bool, error) {
	v, err := vethOf(p.Attachment, mtu)
	if err != nil {
		return false, err
	}
	done, err := k.door.Rejoin(v, p.nsid, p.Addrs, gateways)
	if !done || err != nil || k.path != nil {
		return done, err
	}
	return done, k.door.Silence(p.ID, [6]byte(v.PeerMAC))
}

func (k *linuxKernel) namespace(nsid int) (*os.File, error) { return k.door.Namespace(nsid) }

func vethOf(a Attachment, mtu int) (link.Veth, error) {
	alias, err := encodeAlias(a)
	if err != nil {
		return link.Veth{}, err
	}
	mac, err := parseMAC(a.MAC)
	router := routerMAC()
	return link.Veth{
		ID: a.ID, MTU: mtu, HostMAC: net.HardwareAddr(router[:]), PeerMAC: net.HardwareAddr(mac[:]), Alias: alias,
	}, err
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
	case selfObject:
		return k.path.Self.Put(0, op.value.(datapath.Self))
	case subnetObject:
		return k.path.Subnets.Put(o.key, op.value.(uint32))
	case encryptedObject:
		return k.path.Encrypted.Put(o.vni, 1)
	case cipherObject:
		return k.path.Ciphers.Put(o.addr, op.value.(datapath.Cipher))
	case insideObject:
		return k.path.Inside.Put(o.addr, op.value.(datapath.Addr))
	case endpointObject:
		return k.path.Endpoints.Put(o.key, op.value.(datapath.Endpoint))
	case ifaceObject:
		return k.path.Ifaces.Put(o.ifindex, op.value.(datapath.Iface))
	case peerObject:
		return k.path.Peers.Put(o.addr, 1)
	case onLinkObject:
		return k.path.OnLink.Put(o.addr, op.value.(datapath.OnLink))
	case directObject:
		return k.path.Direct.Put(o.addr, op.value.(uint32))
	case switchesObject:
		return k.path.Switches.Put(0, op.value.(uint32))
	case tunnelMTUObject:
		if k.path == nil {
			return k.door.PutTunnelMTU(op.value.(int))
		}
		return k.path.MTU.Put(0, uint32(op.value.(int)))
	case slotObject:
		return k.path.PutSlot(o.slot)
	case portObject:
		return k.door.Raise(o.id)
	case hookObject:
		return k.attach(o.hook)
	case neighbourObject:
		return k.door.PutNeighbour(o.key, op.value.(datapath.MAC))
	case insideRoute:
		return k.door.PutRoute(o.to, op.value.(link.Route))
	case routeObject:
		return k.door.PutRoute(o.to, op.value.(link.Route))
	case masqueradeObject:
		return nft.Put(nft.Prefixes(op.value.(string)))
	case untrackedObject:
		return nft.PutTunnel(op.value.(netip.AddrPort))
	case acceptObject:
		return nft.PutAccept(o.v6, op.value.(nft.Accepting))
	case admitObject:
		return nft.PutAdmit(o.v6)
	case mtuObject:
		return k.door.PutMTU(o.id, op.value.(int))
	default:
		return k.putForwarding(op)
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
	case selfObject:
		return k.path.Self.Put(0, datapath.Self{})
	case subnetObject:
		return k.path.Subnets.Delete(o.key)
	case encryptedObject:
		return k.path.Encrypted.Delete(o.vni)
	case cipherObject:
		return k.path.Ciphers.Delete(o.addr)
	case insideObject:
		return k.path.Inside.Delete(o.addr)
	case endpointObject:
		return k.path.Endpoints.Delete(o.key)
	case ifaceObject:
		return k.path.Ifaces.Delete(o.ifindex)
	case peerObject:
		return k.path.Peers.Delete(o.addr)
	case onLinkObject:
		return errors.Join(k.path.OnLink.Delete(o.addr), k.path.Answers.Delete(o.addr))
	case directObject:
		return k.path.Direct.Delete(o.addr)
	case switchesObject:
		return k.path.Switches.Put(0, 0)
	case tunnelMTUObject:
		if k.path == nil {
			return nil // it went with the device
		}
		return k.path.MTU.Put(0, 0)
	case portObject:
		return nil // it went with the interface
	case hookObject:
		return k.detach(o.hook)
	case neighbourObject:
		return k.door.DeleteNeighbour(o.key)
	case insideRoute:
		return k.door.DeleteRoute(o.to)
	case routeObject:
		return k.door.DeleteRoute(o.to)
	case masqueradeObject:
		return nft.Delete()
	case untrackedObject:
		return nft.DeleteTunnel()
	case acceptObject:
		return nft.DeleteAccept(o.v6)
	case admitObject:
		return nft.DeleteAdmit(o.v6)
	case mtuObject:
		return nil // it went with the interface
	default:
		return k.removeForwarding(op)
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
