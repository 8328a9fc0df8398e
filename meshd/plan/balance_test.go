package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/ipvs"
)

func TestLabelsSayHowConnectionsAreSpread(t *testing.T) {
	in := fixture()
	labels := map[string]string{"mesh.lb": "maglev", "mesh.lb.affinity": "2m", "mesh.lb.locality": "node"}
	for i := range in.Networks {
		in.Networks[i].Services[0].Labels = labels
	}
	for _, s := range Compile(in).IPVS.Services {
		if s.Algorithm != ipvs.Maglev || s.Affinity != 2*time.Minute || !s.PreferLocal {
			t.Errorf("%s: %+v", s.Key, s)
		}
		if !s.Backends[0].Local || s.Backends[1].Local {
			t.Errorf("%s: backends %v, want the first on this node", s.Key, s.Backends)
		}
	}
	// A manager of another version may let through what we do not know.
	labels["mesh.lb"], labels["mesh.lb.affinity"], labels["mesh.lb.locality"] = "best", "sometimes", "planet"
	for _, s := range Compile(in).IPVS.Services {
		if s.Algorithm != "" || s.Affinity != 0 || s.PreferLocal {
			t.Errorf("%s: %+v, want the defaults", s.Key, s)
		}
	}
}

func TestPublishedPortsOfBothIPVersions(t *testing.T) {
	in := fixture()
	e := in.Networks[0].Endpoints
	e[0].Addrs = append(e[0].Addrs, addr("fd00::11"))
	for _, s := range Compile(in).IPVS.Services {
		if !s.Published() {
			continue
		}
		want := 2
		if s.VIP == addr("::") {
			want = 1
		}
		if len(s.Backends) != want {
			t.Errorf("%s: %v, want %d backends", s.Key, s.Backends, want)
		}
		for _, b := range s.Backends {
			if b.Addr.Is4() == s.VIP.IsValid() {
				t.Errorf("%s leads to %s", s.Key, b.Addr)
			}
		}
	}
	if n := len(Compile(in).IPVS.Services); n != 3 {
		t.Errorf("%d services, want a VIP and a port of two versions", n)
	}
}

func TestCheckBalance(t *testing.T) {
	for what, c := range map[string]struct {
		labels map[string]string
		wrong  string
	}{
		"none":           {nil, ""},
		"others":         {map[string]string{"mesh.lbx": "1", "web": "2"}, ""},
		"all":            {map[string]string{"mesh.lb": "rr", "mesh.lb.affinity": "1h30m", "mesh.lb.locality": "none"}, ""},
		"algorithm":      {map[string]string{"mesh.lb": "fair"}, "mesh.lb=fair: must be one of [random2 rr leastconn maglev]"},
		"not a duration": {map[string]string{"mesh.lb.affinity": "yes"}, "mesh.lb.affinity=yes"},
		"too long":       {map[string]string{"mesh.lb.affinity": "25h"}, "at most 24h"},
		"negative":       {map[string]string{"mesh.lb.affinity": "-1s"}, "mesh.lb.affinity=-1s"},
		"fraction":       {map[string]string{"mesh.lb.affinity": "10ms"}, "whole seconds"},
		"locality":       {map[string]string{"mesh.lb.locality": "zone"}, "must be node or none"},
		"misspelt":       {map[string]string{"mesh.lb.afinity": "1m"}, "unknown label mesh.lb.afinity"},
	} {
		err := CheckBalance(c.labels)
		if (err == nil) != (c.wrong == "") || (err != nil && !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%s: %v, want %q", what, err, c.wrong)
		}
	}
}
