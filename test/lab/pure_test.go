package lab

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChooseSubnet(t *testing.T) {
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, c := range []struct {
		taken []netip.Prefix
		want  string // "" is an error
	}{
		{nil, "198.18.0.0/24"},
		{prefixes("10.0.0.0/8", "198.18.0.0/24"), "198.18.1.0/24"},
		{prefixes("198.18.0.7/32", "198.18.1.128/25"), "198.18.2.0/24"},
		{prefixes("198.18.0.0/16"), "198.19.0.0/24"},
		{prefixes("fd6d:6573:6800:1200::/64"), "198.18.1.0/24"},
		{prefixes("198.18.0.0/15"), ""},
	} {
		got, err := chooseSubnet(c.taken)
		if (err != nil) != (c.want == "") || err == nil && got.String() != c.want {
			t.Errorf("taken %v: %v, %v; want %q", c.taken, got, err, c.want)
		}
	}
}

func TestCuts(t *testing.T) {
	nodes := []string{"node1", "node2", "node3"}
	for _, c := range []struct {
		groups  []string
		want    []cut
		problem string
	}{
		{groups: []string{"node1", "node2,node3"}, want: []cut{{"node1", "node2"}, {"node1", "node3"}, {"node2", "node1"}, {"node3", "node1"}}},
		{groups: []string{"node2,node3"}, want: []cut{{"node1", "node2"}, {"node1", "node3"}, {"node2", "node1"}, {"node3", "node1"}}},
		{groups: []string{"node1,node2,node3", "client"}, want: []cut{
			{"node1", "client"}, {"node2", "client"}, {"node3", "client"}, {"client", "node1"}, {"client", "node2"}, {"client", "node3"},
		}},
		{groups: []string{"node1,node2,node3"}, problem: "one group"},
		{groups: []string{"node9"}, problem: `no node "node9"`},
		{groups: []string{"node1", "node1"}, problem: "in two groups"},
	} {
		got, err := cuts(nodes, splitGroups(c.groups))
		if c.problem != "" {
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%v: error %v, want one with %q", c.groups, err, c.problem)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", c.groups, err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(cut{})); diff != "" {
			t.Errorf("%v: %s", c.groups, diff)
		}
	}
}

func TestParseStat(t *testing.T) {
	line := "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 100 200 18446744073709551615"
	state, start, err := parseStat(line)
	if err != nil || state != 'S' || start != 987654 {
		t.Errorf("state %c, start %d, error %v", state, start, err)
	}
	if _, _, err := parseStat("42 (short"); err == nil {
		t.Error("a torn line was accepted")
	}
}

func TestParseMountinfo(t *testing.T) {
	got := parseMountinfo("36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - ext3 /dev/root rw\n37 35 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\nbroken\n")
	want := []mount{{"/mnt/a b", "ext3"}, {"/sys/fs/cgroup", "cgroup2"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mount{})); diff != "" {
		t.Error(diff)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{Name: "bpf"}, {Name: "Up"}, {Name: "a/b"}, {Nodes: -1}, {Nodes: 200}, {Nodes: 2, Managers: 3}, {Managers: -1},
	} {
		if _, err := o.withDefaults(); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestLoadStreamReportsErrors(t *testing.T) {
	if err := readLoadStream(strings.NewReader(`{"stream":"Loaded image"}` + "\n")); err != nil {
		t.Error(err)
	}
	err := readLoadStream(strings.NewReader(`{"stream":"x"}` + "\n" + `{"errorDetail":{},"error":"bad layer"}`))
	if err == nil || err.Error() != "bad layer" {
		t.Errorf("got %v", err)
	}
}
