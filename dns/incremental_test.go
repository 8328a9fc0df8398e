package dns

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// Tables that follow one another are those that are made anew.
func TestTablesAfterAChange(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	state := State{Zones: map[string]Zone{}, Clients: map[netip.Addr]Client{addrs("10.0.0.1")[0]: {Zones: []string{"a", "b"}}}}
	var former *tables
	for step := range 500 {
		state.Zones = maps.Clone(state.Zones)
		id := []string{"a", "b"}[rng.IntN(2)]
		z := state.Zones[id]
		switch rng.IntN(12) {
		case 0:
			delete(state.Zones, id)
		case 1:
			z.Network = fmt.Sprint("net", rng.IntN(2))
			state.Zones[id] = z
		default:
			z.Names, z.Reverse = maps.Clone(z.Names), maps.Clone(z.Reverse)
			if z.Names == nil {
				z.Names, z.Reverse = map[string]Name{}, map[netip.Addr]string{}
			}
			for range 1 + rng.IntN(3) {
				changeName(rng, z)
			}
			state.Zones[id] = z
		}
		got, want := compileAfter(former, state, 5*time.Second), compile(state, 5*time.Second)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("step %d: %+v\ngives, after what was before,\n%+v, not\n%+v", step, state, got.zones, want.zones)
		}
		former = got
	}
}

func changeName(rng *rand.Rand, z Zone) {
	name := []string{"web", "db", "Upper", "_x._tcp.web", "web.1"}[rng.IntN(5)]
	addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(4))})
	switch rng.IntN(5) {
	case 0:
		delete(z.Names, name)
		delete(z.Reverse, addr)
	case 1:
		z.Names[name] = Name{Targets: []Target{{Name: "web", Port: 80}, {Name: "Upper", Port: uint16(rng.IntN(2))}}}
	case 2:
		z.Reverse[addr] = name + ".net"
	default:
		z.Names[name] = Name{Addrs: []netip.Addr{addr, netip.MustParseAddr("2001:db8::1")}, TTL: time.Duration(rng.IntN(3)) * time.Second}
	}
}
