package ipvstest

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshd/meshd/ipvs"
)

// Holder is a Balancer that can say what it, or its kernel, holds. Names may be
// missing in the answer.
type Holder interface {
	ipvs.Balancer
	Held() (ipvs.State, error)
}

// Conform checks what every Balancer promises. open gives a balancer each time; all
// of one test's have the same kernel, so that a later one finds what a former left.
func Conform(t *testing.T, setup func(t *testing.T) (open func() Holder)) {
	for name, test := range map[string]func(*testing.T, func() Holder){
		"holds what was set":       holds,
		"the same again":           again,
		"goes through any changes": changes,
		"refuses nonsense":         refuses,
		"survives a restart":       survives,
	} {
		t.Run(name, func(t *testing.T) { test(t, setup(t)) })
	}
}

func example(last byte, draining bool) ipvs.State {
	task := netip.AddrFrom4([4]byte{10, 255, 0, last})
	return ipvs.State{
		MeshVNI:    4096,
		NodeAddrs:  []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		TunnelAddr: netip.MustParseAddr("192.0.2.1"),
		Clients: []ipvs.Client{
			{Addrs: []ipvs.ClientAddr{{VNI: 4097, Addr: netip.MustParseAddr("10.0.1.7")}, {VNI: 4096, Addr: netip.MustParseAddr("10.255.9.9")}}},
			{Addrs: []ipvs.ClientAddr{{VNI: 4096, Addr: task}, {VNI: 4097, Addr: netip.MustParseAddr("fd00::9")}}},
		},
		Services: []ipvs.Service{
			{
				Key: ipvs.Key{VNI: 4096, Port: 8080, Protocol: ipvs.TCP}, Name: "web",
				Backends: []ipvs.Backend{{Addr: task, Port: 80, Draining: draining}},
			},
			{
				Key: ipvs.Key{VNI: 4096, VIP: netip.IPv6Unspecified(), Port: 8080, Protocol: ipvs.TCP}, Name: "web",
				Backends: []ipvs.Backend{{Addr: netip.MustParseAddr("fd00::7"), Port: 80}},
			},
			{
				Key: ipvs.Key{VNI: 4096, VIP: netip.MustParseAddr("192.0.2.1"), Port: 8081, Protocol: ipvs.UDP}, Name: "web",
				Backends: []ipvs.Backend{{Addr: task, Port: 81, Local: true}}, LocalOnly: true,
			},
			{
				Key: ipvs.Key{VNI: 4097, VIP: netip.MustParseAddr("10.0.1.2")}, Name: "web",
				Backends:  []ipvs.Backend{{Addr: netip.MustParseAddr("10.0.1.7"), Weight: 7, Local: true}, {Addr: task, Draining: draining}},
				Algorithm: ipvs.Maglev, Affinity: 90 * time.Second, PreferLocal: true,
				Ejection: ipvs.Ejection{After: 3, Within: time.Minute, First: 10 * time.Second, Longest: time.Hour},
			},
			{
				Key: ipvs.Key{VNI: 4097, VIP: netip.MustParseAddr("fd00::2")}, Name: "web",
				Backends: []ipvs.Backend{{Addr: netip.MustParseAddr("fd00::7")}},
			},
		},
	}
}

func expect(t *testing.T, h Holder, want ipvs.State) {
	t.Helper()
	want, err := ipvs.Normalize(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.Held()
	if err != nil {
		t.Fatal(err)
	}
	if got, err = ipvs.Normalize(got); err != nil {
		t.Fatal(err)
	}
	diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreFields(ipvs.Service{}, "Name"),
		cmpopts.EquateEmpty(), cmpopts.SortSlices(netip.Addr.Less))
	if diff != "" {
		t.Fatalf("held (-want +got):\n%s", diff)
	}
}

func set(t *testing.T, b ipvs.Balancer, s ipvs.State) {
	t.Helper()
	if err := b.Set(s); err != nil {
		t.Fatal(err)
	}
}

func holds(t *testing.T, open func() Holder) {
	b := open()
	set(t, b, ipvs.State{})
	expect(t, b, ipvs.State{})
	set(t, b, example(2, false))
	expect(t, b, example(2, false))
}

func again(t *testing.T, open func() Holder) {
	b := open()
	for range 3 {
		set(t, b, example(2, false))
	}
	expect(t, b, example(2, false))
}

func changes(t *testing.T, open func() Holder) {
	b := open()
	less := example(2, false)
	less.Services, less.NodeAddrs, less.Clients = less.Services[1:], less.NodeAddrs[:1], less.Clients[1:]
	less.Clients[0].Addrs = less.Clients[0].Addrs[:1]
	empty := example(2, false)
	for i := range empty.Services {
		empty.Services[i].Backends = nil
	}
	other := example(4, false)
	other.MeshVNI, other.TunnelAddr = 5000, other.NodeAddrs[1]
	for i := range other.Services {
		other.Services[i].DirectReturn = other.Services[i].Published()
	}
	rr := example(9, true)
	for i := range rr.Services {
		rr.Services[i].Algorithm, rr.Services[i].Backends[0].Weight = ipvs.RoundRobin, 3
	}
	least := example(9, true)
	for i := range least.Services {
		least.Services[i].Algorithm, least.Services[i].Affinity = ipvs.LeastConn, 0
	}
	ejected := example(9, false)
	for i := range ejected.Services {
		ejected.Services[i].Backends[0].Ejected = true
		ejected.Services[i].Ejection = ipvs.Ejection{After: 5, Within: time.Second, First: time.Second, Longest: time.Second}
	}
	inside := example(3, false)
	inside.NodeAddrs, inside.TunnelAddr, inside.MeshAddr = inside.NodeAddrs[1:], inside.NodeAddrs[1], netip.MustParseAddr("10.255.0.1")
	for _, s := range []ipvs.State{rr, least, ejected, inside, example(2, false), example(2, true), example(3, false), less, empty, other, {}, example(9, true)} {
		set(t, b, s)
		expect(t, b, s)
	}
}

func refuses(t *testing.T, open func() Holder) {
	b := open()
	set(t, b, example(2, false))
	bad := example(3, false)
	bad.Services = append(bad.Services, bad.Services[0])
	if b.Set(bad) == nil {
		t.Fatal("two services with one key were taken")
	}
	bad = example(3, false)
	bad.Services[0].Backends[0].Addr = netip.MustParseAddr("fd00::8")
	if b.Set(bad) == nil {
		t.Fatal("an IPv6 backend of an IPv4 service was taken")
	}
	bad = example(3, false)
	bad.Services[0].Algorithm = "fair"
	if b.Set(bad) == nil {
		t.Fatal("an unknown algorithm was taken")
	}
	for _, e := range []ipvs.Ejection{
		{After: 3}, {After: -1, Within: time.Second, First: time.Second, Longest: time.Second},
		{After: 3, Within: time.Second, First: time.Minute, Longest: time.Second}, {Within: time.Second},
	} {
		bad = example(3, false)
		bad.Services[0].Ejection = e
		if b.Set(bad) == nil {
			t.Fatalf("ejection %+v was taken", e)
		}
	}
	expect(t, b, example(2, false))
}

func survives(t *testing.T, open func() Holder) {
	b := open()
	set(t, b, example(2, false))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open()
	set(t, b, example(3, true))
	expect(t, b, example(3, true))
}
