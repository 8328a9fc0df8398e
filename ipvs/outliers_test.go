package ipvs_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshd/meshd/ipvs"
)

func TestKeeperEjectsAndTakesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, k := keep(t)
		want := webState("10.1.0.2", "10.1.0.3", "10.1.0.4")
		want.Services[0].Ejection = ipvs.Ejection{After: 5, Within: 30 * time.Second, First: 10 * time.Second, Longest: time.Minute}
		if err := k.Set(want); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		suspect := ipvs.Suspect{Key: want.Services[0].Key, Addr: netip.MustParseAddr("10.1.0.3"), Failure: ipvs.NoAnswer, Count: 5}
		ejected := func() (out []string) {
			s, err := f.Held()
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range s.Services[0].Backends {
				if b.Ejected {
					out = append(out, b.Addr.String())
				}
			}
			return out
		}
		if !f.Accuse(suspect) {
			t.Fatal("nobody listens to the balancer")
		}
		if got := ejected(); len(got) != 1 || got[0] != "10.1.0.3" {
			t.Fatalf("ejected: %v", got)
		}
		if e := k.Ejected(); len(e) != 1 || e[0].Service != "web" || e[0].Times != 1 {
			t.Errorf("told: %+v", e)
		}
		// Neither a resync nor a new state takes it back, and it is no difference.
		time.Sleep(5 * time.Second)
		if err := k.Set(want); err != nil {
			t.Fatal(err)
		}
		if d, err := k.Differences(want); err != nil || len(d) != 0 || len(ejected()) != 1 {
			t.Errorf("differences %v, %v; ejected %v", d, err, ejected())
		}
		time.Sleep(6 * time.Second)
		if got := ejected(); len(got) != 0 {
			t.Errorf("ejected after its time: %v", got)
		}
		if n := k.Ejections()[ipvs.EjectionCount{Key: suspect.Key, Service: "web", Failure: ipvs.NoAnswer}]; n != 1 {
			t.Errorf("%d ejections counted", n)
		}
		if err := k.Set(ipvs.State{}); err != nil || len(k.Ejections()) != 0 {
			t.Errorf("after the service went: %v, %v", k.Ejections(), err)
		}
	})
}
