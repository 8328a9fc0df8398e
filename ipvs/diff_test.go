package ipvs

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func compare(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func web(backends ...Backend) Service {
	return Service{Key: Key{VNI: 4097, VIP: netip.MustParseAddr("10.1.0.100")}, Name: "web", Backends: backends}
}

func port80(backends ...Backend) Service {
	return Service{Key: Key{VNI: 4096, Port: 80, Protocol: TCP}, Name: "web", Backends: backends}
}

func TestNormalizeMakesEqualStatesEqual(t *testing.T) {
	a, b := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.3")
	one, err := Normalize(State{
		NodeAddrs: addrs("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
		Services:  []Service{web(Backend{Addr: b}, Backend{Addr: a, Draining: true}, Backend{Addr: a}), port80()},
	})
	if err != nil {
		t.Fatal(err)
	}
	other, err := Normalize(State{
		NodeAddrs: addrs("192.0.2.1", "192.0.2.2"),
		Services:  []Service{port80(), web(Backend{Addr: a}, Backend{Addr: netip.AddrFrom16(b.As16())})},
	})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "states", one, other)
	if !Diff(one, other).Empty() {
		t.Errorf("plan between equals: %+v", Diff(one, other))
	}
}

func TestNormalizeRefuses(t *testing.T) {
	for what, s := range map[string]State{
		"same key":            {Services: []Service{web(), web()}},
		"VXLAN":               {Services: []Service{{Key: Key{VNI: 1 << 24, VIP: netip.MustParseAddr("10.0.0.1")}}}},
		"neither":             {Services: []Service{{Key: Key{VNI: 1, Port: 80}}}},
		"neither TCP nor UDP": {Services: []Service{{Key: Key{VNI: 1, Port: 80, VIP: netip.MustParseAddr("10.0.0.1")}}}},
		"address":             {Services: []Service{web(Backend{})}},
		"two containers": {Clients: []Client{
			{Addrs: []ClientAddr{{VNI: 1, Addr: netip.MustParseAddr("10.0.0.1")}}}, {Addrs: []ClientAddr{{VNI: 1, Addr: netip.MustParseAddr("10.0.0.1")}}}}},
		"algorithm": {Services: []Service{{Key: web().Key, Algorithm: "fair"}}},
		"affinity":  {Services: []Service{{Key: web().Key, Affinity: time.Millisecond}}},
		"weight":    {Services: []Service{web(Backend{Addr: netip.MustParseAddr("10.0.0.1"), Weight: MaxWeight + 1})}},
	} {
		if _, err := Normalize(s); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestDiff(t *testing.T) {
	b := Backend{Addr: netip.MustParseAddr("10.1.0.2")}
	draining := Backend{Addr: b.Addr, Draining: true}
	have := State{MeshVNI: 4096, NodeAddrs: addrs("192.0.2.1"), Services: []Service{web(b)}}
	for what, c := range map[string]struct {
		want State
		plan Plan
	}{
		"name": {State{MeshVNI: 4096, NodeAddrs: addrs("192.0.2.1"), Services: []Service{{Key: web().Key, Name: "x", Backends: []Backend{b}}}}, Plan{}},
		"draining": {State{MeshVNI: 4096, NodeAddrs: addrs("192.0.2.1"), Services: []Service{web(draining)}},
			Plan{Put: []Service{web(draining)}}},
		"publish": {State{MeshVNI: 4096, NodeAddrs: addrs("192.0.2.1"), Services: []Service{web(b), port80(b)}},
			Plan{Put: []Service{port80(b)}, PublishedChanged: true}},
		"remove": {State{MeshVNI: 4096, NodeAddrs: addrs("192.0.2.1")}, Plan{Remove: []Key{web().Key}}},
		"move": {State{MeshVNI: 4096, NodeAddrs: addrs("192.0.2.2"), Services: []Service{web(b)}},
			Plan{AddAddrs: addrs("192.0.2.2"), RemoveAddrs: addrs("192.0.2.1"), MeshChanged: true}},
	} {
		compare(t, what, Diff(have, c.want), c.plan)
	}
}

// Whatever the two states, doing the plan leads from one to the other.
func TestDiffLeadsThere(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	have := State{}
	for range 500 {
		want, err := Normalize(randomState(r))
		if err != nil {
			t.Fatal(err)
		}
		have = follow(have, Diff(have, want), want)
		compare(t, "state", have, want)
	}
}

func follow(have State, p Plan, want State) State {
	services := map[Key]Service{}
	for _, s := range have.Services {
		services[s.Key] = s
	}
	for _, s := range p.Put {
		services[s.Key] = s
	}
	for _, k := range p.Remove {
		delete(services, k)
	}
	all := State{MeshVNI: want.MeshVNI, NodeAddrs: want.NodeAddrs, Clients: followClients(have.Clients, p)}
	for _, s := range services {
		all.Services = append(all.Services, s)
	}
	out, err := Normalize(all)
	if err != nil {
		panic(err)
	}
	return out
}

// followClients keeps what a balancer keeps: for each address, the whole client.
func followClients(have []Client, p Plan) []Client {
	held := byAddr(have)
	for _, c := range p.PutClients {
		for _, a := range c.Addrs {
			held[a] = c
		}
	}
	for _, a := range p.RemoveClients {
		delete(held, a)
	}
	var out []Client
	for a, c := range held {
		if c.Addrs[0] == a {
			out = append(out, c)
		}
	}
	return out
}

func randomState(r *rand.Rand) State {
	s := State{MeshVNI: uint32(1 + r.IntN(3)), NodeAddrs: addrs("192.0.2.1", "192.0.2.2")[:r.IntN(3)]}
	for i := range r.IntN(4) {
		c := Client{Addrs: []ClientAddr{{VNI: 1, Addr: netip.AddrFrom4([4]byte{10, 9, 0, byte(i)})}}}
		for j := range r.IntN(3) {
			c.Addrs = append(c.Addrs, ClientAddr{VNI: 2, Addr: netip.AddrFrom4([4]byte{10, 9, byte(i), byte(j)})})
		}
		s.Clients = append(s.Clients, c)
	}
	for i := range r.IntN(6) {
		svc := Service{Key: Key{VNI: 7, VIP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}}
		if r.IntN(2) == 0 {
			svc.Key = Key{VNI: 7, Port: uint16(1 + i), Protocol: UDP}
		}
		for range r.IntN(4) {
			a := netip.AddrFrom4([4]byte{10, 0, 1, byte(r.IntN(4))})
			svc.Backends = append(svc.Backends, Backend{Addr: a, Draining: r.IntN(2) == 0, Weight: uint16(r.IntN(3)), Local: r.IntN(2) == 0})
		}
		svc.Algorithm, svc.PreferLocal = Algorithms()[r.IntN(4)], r.IntN(2) == 0
		s.Services = append(s.Services, svc)
	}
	return s
}
