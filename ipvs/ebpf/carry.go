package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// A version with another layout begins with maps of its own. What the programs of the
// one before remember is carried over: the kernel keeps each map's types (BTF), so that
// an entry is converted by the names of its fields. What a field is called is therefore
// part of its meaning; one that is new begins as zero.
//
// The order: services keep their numbers, since connections name them; the state is
// applied; our programs take the slots; connections are copied. Until that is done, our
// programs leave to the ones before them all packets of connections that they do not
// know (bpf/carry.h). Sockets follow: those that were led until our programs are on
// them, too, are copied at the end.

// remembered are the maps that hold connections, and what belongs to them.
func remembered() []string {
	return []string{balanceMapFlows, balanceMapEntered, balanceMapAffinities, balanceMapKnown, balanceMapSockets, localMapLed}
}

// resized is the suffix of a directory whose maps had other sizes than configured.
const resized = "-resized"

// formerDirs are those of other layouts, and of other sizes.
func formerDirs(pinDir string) ([]string, error) {
	entries, err := os.ReadDir(pinDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != layoutVersion && strings.HasPrefix(e.Name(), "v") {
			out = append(out, filepath.Join(pinDir, e.Name()))
		}
	}
	return out, err
}

// forgetUnfinished drops our maps if an earlier process died before it put programs
// that use them into the slots: other ones worked on with theirs since.
func forgetUnfinished(c Config) error {
	former, err := formerDirs(c.PinDir)
	if err != nil || len(former) == 0 {
		return err
	}
	used, err := inUse(c)
	if err != nil || used {
		return err
	}
	return os.RemoveAll(layoutDir(c.PinDir))
}

// inUse says whether the programs in the slots work with our layout's maps.
func inUse(c Config) (bool, error) {
	flows, err := ebpf.LoadPinnedMap(filepath.Join(layoutDir(c.PinDir), balanceMapFlows), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer flows.Close()
	own, err := flows.Info()
	if err != nil {
		return false, err
	}
	id, _ := own.ID()
	hooks, err := ebpf.LoadPinnedMap(c.HooksPath, nil)
	if err != nil {
		return false, err
	}
	defer hooks.Close()
	var p *ebpf.Program
	if err := hooks.Lookup(slotBalanceContainer, &p); err != nil {
		return false, gone(err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return false, err
	}
	maps, _ := info.MapIDs()
	return slices.Contains(maps, id), nil
}

// carry copies maps of other layouts into ours, entry by entry; what we have stays.
func carry(c Config, names []string) error {
	dirs, err := formerDirs(c.PinDir)
	if err != nil || len(dirs) == 0 {
		return err
	}
	specs, err := mapSpecs()
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		for _, name := range names {
			if err := carryMap(filepath.Join(dir, name), filepath.Join(layoutDir(c.PinDir), name), specs[name]); err != nil {
				errs = append(errs, fmt.Errorf("map %s of layout %s: %w", name, filepath.Base(dir), err))
			}
		}
	}
	return errors.Join(errs...)
}

func mapSpecs() (map[string]*ebpf.MapSpec, error) {
	balance, err := loadBalance()
	if err != nil {
		return nil, err
	}
	local, err := loadLocal()
	if err != nil {
		return nil, err
	}
	balance.Maps[localMapLed] = local.Maps[localMapLed]
	return balance.Maps, nil
}

func carryMap(fromPath, toPath string, spec *ebpf.MapSpec) error {
	from, err := ebpf.LoadPinnedMap(fromPath, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // that layout had none
	}
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := ebpf.LoadPinnedMap(toPath, nil)
	if err != nil {
		return err
	}
	defer to.Close()
	key, value, err := conversions(from, spec)
	if err != nil {
		return err
	}
	var failed error
	err = oneByOne(from, func(k, v []byte) bool {
		err := to.Update(key.of(k), value.of(v), ebpf.UpdateNoExist)
		if !errors.Is(err, ebpf.ErrKeyExist) {
			failed = err
		}
		return failed == nil
	})
	return errors.Join(err, failed)
}

// conversion makes a key or a value of another layout one of ours.
type conversion struct {
	size  int // of ours, in bytes
	spans []span
}

// span is where a field's bytes are, and where they come to be.
type span struct{ from, to, length uint32 }

func (c conversion) of(old []byte) []byte {
	out := make([]byte, c.size)
	for _, s := range c.spans {
		copy(out[s.to:s.to+s.length], old[s.from:])
	}
	return out
}

// conversions finds out how a map's entries become those of spec.
func conversions(from *ebpf.Map, spec *ebpf.MapSpec) (key, value conversion, err error) {
	handle, err := from.Handle()
	if err != nil {
		return key, value, fmt.Errorf("its types: %w", err)
	}
	defer handle.Close()
	types, err := handle.Spec(nil)
	if err != nil {
		return key, value, fmt.Errorf("its types: %w", err)
	}
	if key, err = conversionTo(types, spec.Key, int(from.KeySize()), int(spec.KeySize)); err != nil {
		return key, value, fmt.Errorf("key: %w", err)
	}
	value, err = conversionTo(types, spec.Value, int(from.ValueSize()), int(spec.ValueSize))
	if err != nil {
		err = fmt.Errorf("value: %w", err)
	}
	return key, value, err
}

func conversionTo(types *btf.Spec, want btf.Type, had, size int) (conversion, error) {
	c := conversion{size: size}
	s, ok := btf.UnderlyingType(want).(*btf.Struct)
	if !ok {
		if had != size {
			return c, fmt.Errorf("has %d bytes, not %d", had, size)
		}
		c.spans = []span{{0, 0, uint32(size)}}
		return c, nil
	}
	var old *btf.Struct
	if err := types.TypeByName(s.Name, &old); err != nil {
		return c, fmt.Errorf("struct %s: %w", s.Name, err)
	}
	return c, c.add(old, s, 0, 0)
}

// add converts what is at an offset of the old type into what is at an offset of the
// new one. Of arrays as many elements are kept as both have, of numbers as many bytes:
// this is for little-endian machines, as our objects are.
func (c *conversion) add(old, want btf.Type, from, to uint32) error {
	old, want = btf.UnderlyingType(old), btf.UnderlyingType(want)
	switch want := want.(type) {
	case *btf.Struct:
		o, ok := old.(*btf.Struct)
		if !ok {
			return fmt.Errorf("%v was %v", want, old)
		}
		for _, m := range want.Members {
			i := slices.IndexFunc(o.Members, func(was btf.Member) bool { return was.Name == m.Name })
			if i < 0 {
				continue
			}
			if err := c.add(o.Members[i].Type, m.Type, from+o.Members[i].Offset.Bytes(), to+m.Offset.Bytes()); err != nil {
				return fmt.Errorf("field %s: %w", m.Name, err)
			}
		}
		return nil
	case *btf.Array:
		o, ok := old.(*btf.Array)
		if !ok {
			return fmt.Errorf("%v was %v", want, old)
		}
		was, is, err := sizes(o.Type, want.Type)
		for i := uint32(0); i < min(o.Nelems, want.Nelems) && err == nil; i++ {
			err = c.add(o.Type, want.Type, from+i*was, to+i*is)
		}
		return err
	}
	was, is, err := sizes(old, want)
	c.spans = append(c.spans, span{from, to, min(was, is)})
	return err
}

func sizes(a, b btf.Type) (was, is uint32, err error) {
	x, err := btf.Sizeof(a)
	if err != nil {
		return 0, 0, err
	}
	y, err := btf.Sizeof(b)
	return uint32(x), uint32(y), err
}

// follow lets our programs leave packets to those that are in the slots.
func (o *objects) follow() error {
	hooks, err := ebpf.LoadPinnedMap(o.hooks, nil)
	if err != nil {
		return err
	}
	defer hooks.Close()
	for slot := range o.slots() {
		var p *ebpf.Program
		err := hooks.Lookup(slot, &p)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err == nil {
			err = errors.Join(o.Former.Put(slot, p), p.Close())
		}
		if err != nil {
			return fmt.Errorf("slot %d: %w", slot, err)
		}
	}
	return nil
}

// dropFormer removes what other layouts left: first their links, so that sockets are led
// by our programs only, and the last ones that theirs led are known to ours.
func dropFormer(c Config) error {
	dirs, err := formerDirs(c.PinDir)
	if err != nil || len(dirs) == 0 {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, linksDir)))
	}
	errs = append(errs, carry(c, remembered()))
	for _, dir := range dirs {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}
