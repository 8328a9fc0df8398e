package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// layoutVersion changes with the layout or the meaning of any pinned map. A variable, so
// that tests link a meshd that has another one.
var layoutVersion = "v6"

// Slots of mesh_hooks, as in overlay/datapath/bpf/hook.h.
const (
	slotBalanceContainer uint32 = 0
	slotBalanceTunnel    uint32 = 1
	slotBalanceUnderlay  uint32 = 2
	slotBalanceLocal     uint32 = 3
)

// ErrHooksReplaced means that the overlay has another program array than the one
// our programs were loaded for: they must be loaded again, by another New.
var ErrHooksReplaced = errors.New("the overlay's program array is another one")

// objects is what we have in the kernel.
type objects struct {
	balanceObjects
	local localPrograms
	hooks string // path of mesh_hooks
}

func layoutDir(pinDir string) string { return filepath.Join(pinDir, layoutVersion) }

// load makes or opens the maps and loads the programs.
func load(c Config) (*objects, error) {
	dir := layoutDir(c.PinDir)
	if err := forgetUnfinished(c); err != nil {
		return nil, err
	}
	o, err := loadInto(dir, c)
	if errors.Is(err, ebpf.ErrMapIncompatible) { // other sizes than configured
		if err = errors.Join(os.RemoveAll(dir+resized), os.Rename(dir, dir+resized)); err == nil {
			o, err = loadInto(dir, c)
		}
	}
	if err != nil {
		return nil, verifierDetail(err)
	}
	return o, nil
}

func loadInto(dir string, c Config) (*objects, error) {
	hooks, err := ebpf.LoadPinnedMap(c.HooksPath, nil)
	if err != nil {
		return nil, fmt.Errorf("overlay's program array: %w", err)
	}
	defer hooks.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	spec, err := loadBalance()
	if err != nil {
		return nil, err
	}
	spec.Maps[balanceMapFlows].MaxEntries = 2 * c.Connections
	o := &objects{hooks: c.HooksPath}
	err = spec.LoadAndAssign(&o.balanceObjects, &ebpf.CollectionOptions{
		Maps:            ebpf.MapOptions{PinPath: dir},
		MapReplacements: map[string]*ebpf.Map{balanceMapMeshHooks: hooks},
	})
	if err != nil {
		return nil, err
	}
	if err := o.loadLocal(dir, c); err != nil {
		return nil, errors.Join(err, o.balanceObjects.Close())
	}
	return o, nil
}

func (o *objects) loadLocal(dir string, c Config) error {
	spec, err := loadLocal()
	if err != nil {
		return err
	}
	spec.Maps[localMapFlows].MaxEntries = 2 * c.Connections
	return spec.LoadAndAssign(&o.local, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: dir}})
}

// Close lets go of the descriptors.
func (o *objects) Close() error {
	return errors.Join(o.local.Close(), o.balanceObjects.Close())
}

// hook puts the programs into their slots. Storing one again is harmless: packets
// go by the old one or the new one.
func (o *objects) hook() error {
	hooks, err := ebpf.LoadPinnedMap(o.hooks, nil)
	if err != nil {
		return err
	}
	defer hooks.Close()
	if err := sameMap(hooks, o.MeshHooks); err != nil {
		return err
	}
	for slot, p := range o.slots() {
		if err := hooks.Put(slot, p); err != nil {
			return fmt.Errorf("slot %d: %w", slot, err)
		}
	}
	return nil
}

// sameMap: o.MeshHooks is the map that the programs call the overlay through.
func sameMap(pinned, ours *ebpf.Map) error {
	var ids [2]ebpf.MapID
	for i, m := range []*ebpf.Map{pinned, ours} {
		info, err := m.Info()
		if err != nil {
			return err
		}
		ids[i], _ = info.ID()
	}
	if ids[0] != ids[1] {
		return ErrHooksReplaced
	}
	return nil
}

func (o *objects) unhook() error {
	hooks, err := ebpf.LoadPinnedMap(o.hooks, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer hooks.Close()
	var errs []error
	for slot := range o.slots() {
		if err := hooks.Delete(slot); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("slot %d: %w", slot, err))
		}
	}
	return errors.Join(errs...)
}

func (o *objects) slots() map[uint32]*ebpf.Program {
	return map[uint32]*ebpf.Program{
		slotBalanceContainer: o.BalanceContainer,
		slotBalanceTunnel:    o.BalanceTunnel,
		slotBalanceUnderlay:  o.BalanceUnderlay,
		slotBalanceLocal:     o.BalanceLocal,
	}
}

// removePins drops maps and links of all layouts; a link without a pin is detached.
func removePins(pinDir string) error { return os.RemoveAll(pinDir) }

func verifierDetail(err error) error {
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) {
		return fmt.Errorf("%w\n%+v", err, ve)
	}
	return err
}
