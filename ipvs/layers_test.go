package ipvs_test

import (
	"path/filepath"
	"testing"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
)

func TestLayersConform(t *testing.T) {
	for name, leads := range map[string]bool{"led inside": true, "led on the node": false} {
		t.Run(name, func(t *testing.T) {
			ipvstest.Conform(t, func(t *testing.T) func() ipvstest.Holder {
				marker := filepath.Join(t.TempDir(), "marker")
				return func() ipvstest.Holder {
					return ipvs.Layers{Node: &ipvstest.Fake{}, Inside: &ipvstest.Fake{}, Leads: leads, Marker: marker}
				}
			})
		})
	}
}

// What was led inside for a former process is taken away, once, when the node leads.
func TestLayersTakeAwayWhatAFormerProcessLed(t *testing.T) {
	inside := &ipvstest.Fake{}
	b := ipvs.Layers{Node: &ipvstest.Fake{}, Inside: inside, Leads: true, Marker: filepath.Join(t.TempDir(), "marker")}
	s := (&ipvstest.FakeRig{}).State()
	s.Clients = []ipvs.Client{{Addrs: []ipvs.ClientAddr{{VNI: 1, Addr: s.Services[0].Backends[0].Addr}}}}
	services := func() int {
		held, err := inside.Held()
		if err != nil {
			t.Fatal(err)
		}
		return len(held.Services)
	}
	for _, c := range []struct {
		leads, left bool
		inside      int
	}{{true, true, 1}, {false, false, 0}, {true, true, 1}} {
		b.Leads = c.leads
		sets := inside.Sets()
		for range 2 {
			if err := b.Set(s); err != nil {
				t.Fatal(err)
			}
		}
		if services() != c.inside || b.Left() != c.left {
			t.Errorf("led inside: %v; %d services there, left: %v", c.leads, services(), b.Left())
		}
		if n := inside.Sets() - sets; !c.leads && n != 1 {
			t.Errorf("taken away %d times", n)
		}
	}
}
