package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Program is one of the overlay's programs; each belongs on one kind of device.
type Program string

// The programs.
const (
	// Container sits on the host side of a container's veth.
	Container Program = "container"
	// Tunnel sits on the VXLAN device.
	Tunnel Program = "tunnel"
	// Underlay sits on the node's own devices.
	Underlay Program = "underlay"
	// Local sits on lo.
	Local Program = "local"
	// Decrypted sits on the WireGuard devices.
	Decrypted Program = "decrypted"
)

// Slots of mesh_hooks, as in bpf/hook.h.
const (
	slotForwardContainer uint32 = 4
	slotForwardTunnel    uint32 = 5
	slotForwardUnderlay  uint32 = 6
	slotForwardLocal     uint32 = 7
)

// Slots lists those of mesh_hooks that are the overlay's.
func Slots() []uint32 {
	return []uint32{slotForwardContainer, slotForwardTunnel, slotForwardUnderlay, slotForwardLocal}
}

// HooksName is the pinned program array's file name in the bpffs directory.
const HooksName = "mesh_hooks"

// Datapath is the overlay's half of a node's data path.
type Datapath struct {
	Ifaces    Table[uint32, Iface]
	Endpoints Table[EndpointKey, Endpoint]
	Subnets   Table[SubnetKey, uint32]
	Peers     Table[Addr, uint32]
	// OnLink are the peers whose direct frames are taken. Direct are those of them
	// that direct frames are sent to, and the device to each.
	OnLink Table[Addr, OnLink]
	Direct Table[Addr, uint32]
	// Answers are written by the programs: when each peer's last answer to a probe
	// came, in nanoseconds of the monotonic clock.
	Answers  Table[Addr, uint64]
	Settings Table[uint32, Settings]
	// Encrypted are the VNIs of networks whose packets never travel in the clear.
	// Ciphers is how to send to a node so, and Inside whose the addresses are that
	// tunnelled packets have inside of WireGuard.
	Encrypted Table[uint32, uint32]
	Ciphers   Table[Addr, Cipher]
	Inside    Table[Addr, Addr]
	// Self has one entry: the MAC address of frames that enter here and are tunnelled on.
	Self Table[uint32, Self]
	// MTU has one entry: what fits into the tunnel to every peer, in bytes.
	MTU Table[uint32, uint32]
	// Switches has one entry.
	Switches Table[uint32, uint32]

	dir string
	obj overlayObjects
}

// Load puts the programs into the kernel, with the maps that are pinned in dir
// or new ones, and swaps them in wherever an earlier process left a program
// attached. dir must be on a bpffs, see Mount.
func Load(dir string) (*Datapath, error) {
	d := &Datapath{dir: dir}
	err := loadOverlayObjects(&d.obj, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: dir}})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		// Another version's layout. Its programs keep their maps until the links are
		// swapped; ours start empty and are filled before the next packet of a flow
		// matters less than a layout misread.
		if err = d.unpinMaps(); err == nil {
			err = loadOverlayObjects(&d.obj, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: dir}})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("load data path in %s: %w", dir, verifierDetail(err))
	}
	d.Ifaces = Table[uint32, Iface]{"ifaces", d.obj.MeshIfaces}
	d.Endpoints = Table[EndpointKey, Endpoint]{"endpoints", d.obj.MeshEndpoints}
	d.Subnets = Table[SubnetKey, uint32]{"subnets", d.obj.MeshSubnets}
	d.Peers = Table[Addr, uint32]{"peers", d.obj.MeshPeers}
	d.Direct = Table[Addr, uint32]{"direct", d.obj.MeshDirect}
	d.OnLink = Table[Addr, OnLink]{"onlink", d.obj.MeshOnlink}
	d.Answers = Table[Addr, uint64]{"answers", d.obj.MeshAnswers}
	d.Encrypted = Table[uint32, uint32]{"encrypted", d.obj.MeshEncrypted}
	d.Ciphers = Table[Addr, Cipher]{"ciphers", d.obj.MeshCiphers}
	d.Inside = Table[Addr, Addr]{"inside", d.obj.MeshInside}
	d.Self = Table[uint32, Self]{"self", d.obj.MeshSelf}
	d.MTU = Table[uint32, uint32]{"mtu", d.obj.MeshMtu}
	d.Switches = Table[uint32, uint32]{"switches", d.obj.MeshSwitches}
	d.Settings = Table[uint32, Settings]{"settings", d.obj.MeshConfig}
	if err := d.takeOver(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Close lets go without removing anything: what is pinned works on.
func (d *Datapath) Close() error { return d.obj.Close() }

// FD is the program's descriptor, for attaching it as a filter.
func (d *Datapath) FD(p Program) int { return d.program(p).FD() }

// ID is the program's number in the kernel.
func (d *Datapath) ID(p Program) (uint32, error) {
	info, err := d.program(p).Info()
	if err != nil {
		return 0, fmt.Errorf("program %s: %w", p, err)
	}
	id, _ := info.ID()
	return uint32(id), nil
}

func (d *Datapath) program(p Program) *ebpf.Program {
	switch p {
	case Container:
		return d.obj.FromContainer
	case Tunnel:
		return d.obj.FromTunnel
	case Underlay:
		return d.obj.FromUnderlay
	case Decrypted:
		return d.obj.FromCipher
	default:
		return d.obj.FromLocal
	}
}

// takeOver swaps the programs of an earlier process for ours: the forwarding
// halves first, since a guard of either version may call them.
func (d *Datapath) takeOver() error {
	for slot := range d.slots() {
		if err := d.PutSlot(slot); err != nil {
			return err
		}
	}
	_, err := d.Attached()
	return err
}

// slots are the forwarding halves, by their places in the program array.
func (d *Datapath) slots() map[uint32]*ebpf.Program {
	return map[uint32]*ebpf.Program{
		slotForwardContainer: d.obj.ForwardContainer,
		slotForwardTunnel:    d.obj.ForwardTunnel,
		slotForwardUnderlay:  d.obj.ForwardUnderlay,
		slotForwardLocal:     d.obj.ForwardLocal,
	}
}

// PutSlot puts a forwarding half into the program array, where the balancer finds it.
func (d *Datapath) PutSlot(slot uint32) error {
	if err := d.obj.MeshHooks.Put(slot, d.slots()[slot]); err != nil {
		return fmt.Errorf("hook %d: %w", slot, err)
	}
	return nil
}

// Slots says of each forwarding half whether it is in its place.
func (d *Datapath) Slots() (map[uint32]bool, error) {
	out := map[uint32]bool{}
	for slot, p := range d.slots() {
		info, err := p.Info()
		if err != nil {
			return nil, fmt.Errorf("hook %d: %w", slot, err)
		}
		id, _ := info.ID()
		var have uint32
		if err := d.obj.MeshHooks.Lookup(slot, &have); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("hook %d: %w", slot, err)
		}
		out[slot] = have == uint32(id)
	}
	return out, nil
}

func (d *Datapath) unpinMaps() error {
	spec, err := loadOverlay()
	if err != nil {
		return err
	}
	for name := range spec.Maps {
		// The hooks' layout is the ABI with the load balancer and does not change.
		if name == HooksName {
			continue
		}
		if err := os.Remove(filepath.Join(d.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func verifierDetail(err error) error {
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) {
		return fmt.Errorf("%w\n%+v", err, ve)
	}
	return err
}

// Mount makes dir a bpffs if it is none yet. Not every distribution mounts
// /sys/fs/bpf, and an own mount is ours alone.
func Mount(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	if fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", dir, err)
	}
	return nil
}
