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

func TestLabelsSayWhenBackendsAreEjected(t *testing.T) {
	usual := usualEjection()
	for labels, want := range map[[2]string]ipvs.Ejection{
		{}:                    usual,
		{"off", ""}:           {},
		{"off", "10s/20s"}:    {},
		{"3/1m", ""}:          {After: 3, Within: time.Minute, First: usual.First, Longest: usual.Longest},
		{"", "1s/1h"}:         {After: usual.After, Within: usual.Within, First: time.Second, Longest: time.Hour},
		{"1000/24h", "2s/2s"}: {After: 1000, Within: 24 * time.Hour, First: 2 * time.Second, Longest: 2 * time.Second},
	} {
		in := fixture()
		for i := range in.Networks {
			in.Networks[i].Services[0].Labels = map[string]string{"mesh.lb.eject": labels[0], "mesh.lb.eject.for": labels[1]}
		}
		for _, s := range Compile(in).IPVS.Services {
			if s.Ejection != want {
				t.Errorf("%q: %s: %+v, want %+v", labels, s.Key, s.Ejection, want)
			}
		}
		if _, err := ipvs.Normalize(Compile(in).IPVS); err != nil {
			t.Errorf("%q: %v", labels, err)
		}
	}
	for label, wrong := range map[string][]string{
		"mesh.lb.eject":     {"on", "5", "0/10s", "5/", "5/10", "5/1500ms", "-1/10s", "1001/10s", "5/25h"},
		"mesh.lb.eject.for": {"10s", "10s/5s", "0s/5s", "10s/500ms", "10s/48h", "10s/5m/1h"},
	} {
		for _, v := range wrong {
			labels := map[string]string{label: v}
			if err := CheckBalance(labels); err == nil || !strings.Contains(err.Error(), label+"="+v) {
				t.Errorf("%s=%s: %v", label, v, err)
			}
			if e, _ := ejectionOf(labels); e != usual {
				t.Errorf("%s=%s from another version's manager: %+v, want what is usual", label, v, e)
			}
		}
	}
}
