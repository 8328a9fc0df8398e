package plan

import (
	"strings"
	"testing"
)

func TestNodesSayHowMuchTheirTasksGet(t *testing.T) {
	for name, c := range map[string]struct {
		label string
		here  map[string]string // the node's labels; the other has none, and is called pi
		want  [2]uint16
	}{
		"none":              {"", nil, [2]uint16{1, 1}},
		"node's own":        {"", map[string]string{"mesh.weight": "4"}, [2]uint16{4, 1}},
		"nonsense":          {"", map[string]string{"mesh.weight": "much"}, [2]uint16{1, 1}},
		"too much":          {"", map[string]string{"mesh.weight": "257"}, [2]uint16{1, 1}},
		"even":              {"even", map[string]string{"mesh.weight": "4"}, [2]uint16{1, 1}},
		"by label":          {"node.labels.tier:big=7,small=2", map[string]string{"mesh.weight": "4", "tier": "big"}, [2]uint16{7, 1}},
		"others":            {"node.labels.tier:big=7,*=2", map[string]string{"tier": "big"}, [2]uint16{7, 2}},
		"by host name":      {"node.hostname:pi=3", nil, [2]uint16{1, 3}},
		"another manager's": {"node.role:manager=3", map[string]string{"mesh.weight": "4"}, [2]uint16{4, 1}},
	} {
		in := fixture()
		in.Nodes[0].Labels, in.Nodes[1].Hostname = c.here, "pi"
		for i := range in.Networks {
			if c.label != "" {
				in.Networks[i].Services[0].Labels = map[string]string{"mesh.lb.weight": c.label}
			}
		}
		services := Compile(in).IPVS.Services
		if len(services) != 2 {
			t.Fatalf("%d services", len(services))
		}
		for _, s := range services {
			if got := [2]uint16{max(s.Backends[0].Weight, 1), max(s.Backends[1].Weight, 1)}; got != c.want {
				t.Errorf("%s: %s: weights %v, want %v", name, s.Key, got, c.want)
			}
		}
	}
}

// Tasks of no weight keep what connections they have, and get no new ones.
func TestWeightOfZero(t *testing.T) {
	in := fixture()
	in.Nodes[0].Labels = map[string]string{"mesh.weight": "0"}
	for _, s := range Compile(in).IPVS.Services {
		for _, b := range s.Backends {
			if b.Draining != b.Local {
				t.Errorf("%s: %+v, want this node's tasks alone to drain", s.Key, b)
			}
		}
	}
}

func TestCheckWeights(t *testing.T) {
	for _, v := range []string{"", "3", "tier:big=4", "node.labels.:a=1", "node.labels.tier", "node.labels.tier:", "node.labels.tier:big", "node.labels.tier:big=-1",
		"node.labels.tier:big=257", "node.labels.tier:big=1,big=2", "node.labels.tier:=2", "node.role:manager=1", "node.hostname:a=1,"} {
		if err := CheckBalance(map[string]string{"mesh.lb.weight": v}); err == nil || !strings.Contains(err.Error(), "mesh.lb.weight="+v) {
			t.Errorf("%q: %v", v, err)
		}
	}
	for _, v := range []string{"even", "node.labels.tier:big=256,*=1", "node.hostname:a=1", "node.hostname:a=0,*=1"} {
		if err := CheckBalance(map[string]string{"mesh.lb.weight": v}); err != nil {
			t.Errorf("%q: %v", v, err)
		}
	}
	for v, wrong := range map[string]bool{"1": false, "256": false, "0": false, "257": true, "": true, "-1": true, "1.5": true} {
		if err := CheckNodeWeight(map[string]string{"mesh.weight": v}); (err != nil) != wrong {
			t.Errorf("%q: %v", v, err)
		}
	}
	if err := CheckNodeWeight(map[string]string{"tier": "big"}); err != nil {
		t.Error(err)
	}
}
