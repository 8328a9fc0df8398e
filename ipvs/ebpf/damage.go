package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/meshd/meshd/ipvs"
)

// Damage lists what is wrong in the kernel beyond the State that Held tells:
// entries that belong together and do not fit, and programs that are not in their
// places. The next Set puts it right.
func (b *Balancer) Damage() ([]ipvs.Difference, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.running {
		return nil, nil // not yet ours
	}
	if b.held == nil {
		if err := b.rereadLocked(); err != nil {
			return nil, err
		}
	}
	programs, err := b.objects.misplaced(b.config, b.socketsLed)
	return append(b.held.damage(), programs...), err
}

// damage compares what was read last with itself.
func (t *table) damage() []ipvs.Difference {
	var out []ipvs.Difference
	for _, e := range t.held {
		if e.broken {
			out = append(out, ipvs.Difference{Kind: "entries", What: "entries of " + e.Key.String(), Want: "as its backends need", Have: "some changed or missing"})
		}
	}
	for i, word := range publishedBits(t.state.Services) {
		if word != t.bits[i] {
			out = append(out, ipvs.Difference{Kind: "ports", What: "table of published ports", Want: "as the services have it", Have: "changed"})
			break
		}
	}
	if n := len(t.strayBackends) + len(t.straySlots); n > 0 {
		out = append(out, ipvs.Difference{Kind: "entries", What: "entries of no service", Want: "none", Have: fmt.Sprint(n)})
	}
	if t.node.Netns != t.netns || t.node.Flags != t.flags {
		out = append(out, ipvs.Difference{Kind: "mesh", What: "entry of the node itself", Want: "as it is", Have: "changed"})
	}
	return out
}

// misplaced lists programs that are not where they work.
func (o *objects) misplaced(c Config, sockets bool) ([]ipvs.Difference, error) {
	var out []ipvs.Difference
	hooks, err := ebpf.LoadPinnedMap(o.hooks, nil)
	if err != nil {
		return nil, fmt.Errorf("overlay's program array: %w", err)
	}
	defer hooks.Close()
	for slot, p := range o.slots() {
		ours, err := programID(p)
		if err != nil {
			return nil, err
		}
		var id uint32
		if err := hooks.Lookup(slot, &id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("slot %d of the overlay's program array: %w", slot, err)
		}
		if id != ours {
			out = append(out, ipvs.Difference{
				Kind: "program", What: fmt.Sprintf("load balancer's program in slot %d", slot), Want: fmt.Sprintf("program %d", ours), Have: programText(id),
			})
		}
	}
	if !sockets {
		return out, nil
	}
	for _, a := range o.localAttachments() {
		have, err := a.attached(filepath.Join(layoutDir(c.PinDir), linksDir, a.name))
		if err != nil {
			return out, err
		}
		if have != "" {
			out = append(out, ipvs.Difference{Kind: "program", What: "program on sockets' " + strings.ToLower(a.name), Want: "attached", Have: have})
		}
	}
	return out, nil
}

func programID(p *ebpf.Program) (uint32, error) {
	info, err := p.Info()
	if err != nil {
		return 0, err
	}
	id, _ := info.ID()
	return uint32(id), nil
}

func programText(id uint32) string {
	if id == 0 {
		return "nothing"
	}
	return fmt.Sprintf("program %d", id)
}

// attached tells what is wrong with a program's link; nothing: "".
func (a localAttachment) attached(pin string) (string, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return "its link is gone", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", a.name, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return "", fmt.Errorf("%s: %w", a.name, err)
	}
	ours, err := programID(a.program)
	if err != nil {
		return "", fmt.Errorf("%s: %w", a.name, err)
	}
	// The kernel names no cgroup once a link was detached.
	if c := info.Cgroup(); c == nil || c.CgroupId == 0 {
		return "detached", nil
	}
	if uint32(info.Program) != ours {
		return fmt.Sprintf("program %d", info.Program), nil
	}
	return "", nil
}

// attachedLocal says that all programs on sockets are where they work.
func (o *objects) attachedLocal(c Config) bool {
	for _, a := range o.localAttachments() {
		if wrong, err := a.attached(filepath.Join(layoutDir(c.PinDir), linksDir, a.name)); err != nil || wrong != "" {
			return false
		}
	}
	return true
}
