package gossip

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// members makes nodes of the given names; those in capitals are given up.
func members(names string) []Member {
	var out []Member
	for i, name := range strings.Fields(names) {
		out = append(out, Member{
			ID:      strings.ToLower(name),
			Addr:    netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), DefaultPort),
			GivenUp: name != strings.ToLower(name),
		})
	}
	return out
}

func set(names string) map[string]bool {
	out := map[string]bool{}
	for _, name := range strings.Fields(names) {
		out[name] = true
	}
	return out
}

func TestMask(t *testing.T) {
	for _, tc := range []struct {
		name, members, silent, living, left, last, want string
	}{
		{name: "all well", members: "me a b"},
		{name: "one of two", members: "me a b", silent: "a", want: "a"},
		{name: "half", members: "me a b c d", silent: "a b", want: "a b"},
		{name: "daemon away, machine alive", members: "me a b", living: "a"},
		{name: "more than half: nothing more is masked", members: "me a b c", silent: "a b"},
		{name: "more than half: what was masked stays", members: "me a b c", silent: "a b", last: "a", want: "a"},
		{name: "more than half: who returns is unmasked", members: "me a b c d", silent: "b c d", last: "a b", want: "b"},
		{name: "the only other one", members: "me a", silent: "a"},
		{name: "given up ones say nothing about me", members: "me a b C D", silent: "a c d", want: "a c d"},
		{name: "given up ones do not make a majority of living", members: "me a C", silent: "a c"},
		{name: "never myself", members: "me a b", silent: "me"},
		{name: "not listed any more", members: "me a b", silent: "x", last: "x"},
		{name: "one that left", members: "me a b", left: "a", want: "a"},
		{name: "the only other one left", members: "me a", left: "a", want: "a"},
		{name: "those that left say nothing about me", members: "me a b c d", silent: "a c d", left: "c d", want: "a c d"},
		{name: "those that left are no majority", members: "me a b c d", silent: "a", left: "b c", want: "a b c"},
		{name: "the others are back", members: "me a b c", silent: "a", last: "", want: "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			gone := map[string]lost{}
			for name := range set(tc.silent) {
				gone[name] = lost{silent: true}
			}
			for name := range set(tc.living) {
				gone[name] = lost{}
			}
			if got := mask("me", members(tc.members), gone, set(tc.left), set(tc.last)); !maps.Equal(got, set(tc.want)) {
				t.Errorf("masked %v, want %q", got, tc.want)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	list := append(members("me a B c"), Member{ID: "nowhere"})
	var got []string
	for _, m := range missing("me", list, set("c")) {
		got = append(got, m.ID)
	}
	if !slices.Equal(got, []string{"a"}) {
		t.Errorf("missing %v, want a: neither myself, nor the given up, the met, and those without address", got)
	}
}

func TestOnlyMetNodesAreLost(t *testing.T) {
	s := &sight{met: map[string]bool{}, gone: map[string]lost{}, left: map[string]bool{}}
	s.see("me", members("me a b"), set("me a"), nil)
	if len(s.gone) != 0 {
		t.Fatalf("b was never met, but counts as lost: %v", s.gone)
	}
	s.see("me", members("me a b"), set("me b"), nil)
	if _, ok := s.gone["a"]; !ok || len(s.gone) != 1 {
		t.Fatalf("lost %v, want a", s.gone)
	}
	s.see("me", members("me b"), set("me b"), nil)
	if len(s.gone) != 0 || s.met["a"] {
		t.Errorf("a left the cluster, but is remembered: %v", s.gone)
	}
}

func TestAnswers(t *testing.T) {
	now := time.Now()
	s := &sight{gone: map[string]lost{"a": {asking: true}}}
	s.answered(answer{"a", true}, now)
	if l := s.gone["a"]; !l.silent || l.asking || l.due != now.Add(recheckSilent) {
		t.Errorf("after silence: %+v", l)
	}
	s.answered(answer{"a", false}, now)
	if l := s.gone["a"]; l.silent || l.due != now.Add(recheckLiving) {
		t.Errorf("after a sign of life: %+v", l)
	}
	s.answered(answer{"b", true}, now)
	if len(s.gone) != 1 {
		t.Errorf("an answer about one that is not lost made it so: %v", s.gone)
	}
}

func TestMissingNodesAreNamedOnce(t *testing.T) {
	var w wait
	start := time.Now()
	for _, step := range []struct {
		after   time.Duration
		missing int
		want    bool
	}{
		{0, 2, false},
		{sayAfter - 1, 1, false},
		{sayAfter, 1, true},
		{2 * sayAfter, 1, false},
		{2 * sayAfter, 0, false}, // all there
		{2 * sayAfter, 1, false},
		{3*sayAfter - 1, 1, false},
		{3 * sayAfter, 1, true},
	} {
		if got := w.tooLong(step.missing, start.Add(step.after)); got != step.want {
			t.Errorf("%d missing after %v: %v", step.missing, step.after, got)
		}
	}
}
