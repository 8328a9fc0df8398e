package ipvs

import (
	"net/netip"
	"testing"
	"time"
)

func TestDifferencesOfSpread(t *testing.T) {
	b := Backend{Addr: netip.MustParseAddr("10.1.0.2")}
	s := web(b)
	s.Algorithm, s.Affinity, s.PreferLocal = RoundRobin, time.Minute, true
	got := differences(State{Services: []Service{web(b)}}, State{Services: []Service{s}})
	want := []Difference{{"service", serviceText(s), "10.1.0.2, by rr, clients stay for 1m0s, this node's first", "10.1.0.2"}}
	compare(t, "changed", got, want)
}
