package ebpf

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf/link"

	"github.com/meshd/meshd/ipvs"
)

// damage reads anew what is wrong, by kind.
func (r *rig) damage() (kinds []string) {
	r.t.Helper()
	if _, err := r.b.Held(); err != nil {
		r.t.Fatal(err)
	}
	all, err := r.b.Damage()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, d := range all {
		kinds = append(kinds, d.Kind)
	}
	slices.Sort(kinds)
	return kinds
}

func (r *rig) pinned(hook string) link.Link {
	r.t.Helper()
	l, err := link.LoadPinnedLink(r.linkPin(hook), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

func (r *rig) linkPin(hook string) string {
	return filepath.Join(r.dir, "ipvs", layoutVersion, linksDir, hook)
}

// Whatever somebody changes is named, and put right by the next Set.
func TestDamageIsNamedAndRepaired(t *testing.T) {
	r := newRig(t)
	state := publishedState(nodeA, ipvs.TCP, backend(task))
	state.Services[0].Ejection = ipvs.Ejection{After: 5, Within: 30e9, First: 10e9, Longest: 60e9}
	if got := r.damage(); len(got) != 0 {
		t.Fatalf("before the first Set: %v", got)
	}
	r.set(state)
	m := &r.b.objects.balanceMaps
	for what, c := range map[string]struct {
		do   func() error
		kind string
	}{
		"nothing": {func() error { return nil }, ""},
		"slots": {func() (err error) {
			for k := range all[slotKey, slot](m.Slots, &err) {
				return m.Slots.Delete(k)
			}
			return err
		}, "entries"},
		"health": {func() (err error) {
			for k := range all[backendKey, health](m.Health, &err) {
				return m.Health.Delete(k)
			}
			return err
		}, "entries"},
		"a stray": {func() error { return m.Backends.Put(backendKey{Service: 999, Addr: addr{1}}, serving) }, "entries"},
		"ports":   {func() error { return m.Published.Put(uint32(0), uint64(1)) }, "ports"},
		"node":    {func() error { return m.Node.Put(uint32(0), node{MeshVNI: mesh, Netns: 1}) }, "mesh"},
		"program": {func() error { return r.hooks.Delete(slotBalanceUnderlay) }, "program"},
		"other program": {func() error {
			return r.hooks.Put(slotBalanceUnderlay, r.b.objects.BalanceLocal)
		}, "program"},
		"detached": {func() error {
			l := r.pinned("connect4")
			defer l.Close()
			return l.Detach()
		}, "program"},
		"unpinned": {func() error { return os.Remove(r.linkPin("sendmsg6")) }, "program"},
	} {
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got := r.damage()
		if c.kind == "" && len(got) != 0 || c.kind != "" && !slices.Equal(got, []string{c.kind}) {
			t.Errorf("%s: %v is damaged, want %q", what, got, c.kind)
		}
		r.set(state)
		if got := r.damage(); len(got) != 0 {
			t.Errorf("%s: still damaged: %v", what, got)
		}
	}
	delivered(t, "in the end", r.underlay(tcp(client, nodeA+":8080", syn)), underlay, client, task)
}
