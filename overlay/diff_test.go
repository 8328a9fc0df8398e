package overlay

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshd/meshd/overlay/datapath"
	"github.com/meshd/meshd/overlay/link"
)

func testPort(mesh bool) port {
	return port{ifindex: 7, Attachment: Attachment{
		ID: "0123456789abcdef", NetworkID: "net1", VNI: 4097, Mesh: mesh, MAC: "02:42:0a:00:01:02",
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.1.2/24")},
	}}
}

func TestPeersComeLastAndGoFirst(t *testing.T) {
	s := State{Peers: []Peer{{Addr: netip.MustParseAddr("192.0.2.1")}}, Networks: []Network{meshNetwork()}}
	all := want(s, facts{live: true, tunnel: 3, loopback: 1, underlay: []int{2}, ports: []port{testPort(false)}}, 4789)
	ops := diff(all, objects{}, 0, lastRank)
	if len(ops) != len(all) {
		t.Fatalf("%d operations for %d objects", len(ops), len(all))
	}
	for i := 1; i < len(ops); i++ {
		if ops[i-1].object.rank() > ops[i].object.rank() {
			t.Errorf("%T before %T", ops[i-1].object, ops[i].object)
		}
	}
	ops = diff(objects{}, all, 0, lastRank)
	for i := 1; i < len(ops); i++ {
		if !ops[i].remove || ops[i-1].object.rank() < ops[i].object.rank() {
			t.Errorf("removing %T before %T", ops[i-1].object, ops[i].object)
		}
	}
}

func TestAdditionsComeBeforeRemovals(t *testing.T) {
	key := func(i byte) object {
		return endpointObject{datapath.EndpointKey{VNI: 1, Addr: datapath.AddrOf(netip.AddrFrom4([4]byte{10, 0, 0, i}))}}
	}
	held := objects{key(1): 1, key(2): 2}
	ops := diff(objects{key(2): 3, key(3): 4}, held, 0, lastRank)
	if len(ops) != 3 || ops[0].remove || ops[1].remove || !ops[2].remove || ops[2].object != key(1) {
		t.Errorf("operations: %+v", ops)
	}
	if ops := diff(held, held, 0, lastRank); len(ops) != 0 {
		t.Errorf("nothing to do, yet: %+v", ops)
	}
}

// Whatever two states are, the operations lead from one to the other.
func TestDiffLeadsFromAnyStateToAnyOther(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func() objects {
		w := objects{}
		for range random.IntN(40) {
			w[ifaceObject{random.Uint32N(30)}] = random.IntN(3)
			w[peerObject{datapath.Addr{byte(random.IntN(30))}}] = present{}
		}
		return w
	}
	for range 500 {
		held, wanted := some(), some()
		for _, op := range diff(wanted, held, 0, lastRank) {
			if op.remove {
				delete(held, op.object)
			} else {
				held[op.object] = op.value
			}
		}
		if len(diff(wanted, held, 0, lastRank)) != 0 || len(held) != len(wanted) {
			t.Fatalf("want %v, got %v", wanted, held)
		}
	}
}

func TestBeforeAnyStateNothingIsTakenAway(t *testing.T) {
	remote := endpointObject{datapath.EndpointKey{VNI: 4097, Addr: datapath.AddrOf(netip.MustParseAddr("10.0.1.9"))}}
	gone := endpointObject{datapath.EndpointKey{VNI: 4097, Addr: datapath.AddrOf(netip.MustParseAddr("10.0.1.8"))}}
	peer := peerObject{datapath.AddrOf(netip.MustParseAddr("192.0.2.1"))}
	route := routeObject{netip.MustParseAddr("10.0.1.2")}
	withSource := link.Route{Ifindex: 7, Source: netip.MustParseAddr("10.0.1.1")}
	held := objects{
		remote: datapath.RemoteEndpoint(netip.MustParseAddr("192.0.2.1")),
		gone:   datapath.LocalEndpoint(6, datapath.MAC{}), ifaceObject{6}: datapath.Iface{},
		peer: present{}, masqueradeObject{}: "10.0.1.0/24", route: withSource,
	}
	ops := withoutState(diff(want(State{}, facts{ports: []port{testPort(true)}}, 4789), held, 0, lastRank), held)
	for _, op := range ops {
		if op.remove && op.object != gone && op.object != (ifaceObject{6}) {
			t.Errorf("%T would be removed", op.object)
		}
		if op.object == route {
			t.Errorf("the route would lose its source: %+v", op)
		}
	}
	if len(ops) < 4 {
		t.Errorf("the container here is not looked after: %+v", ops)
	}
}

func TestAContainerHereIsHereWhateverTheStateSays(t *testing.T) {
	p := testPort(false)
	s := State{Endpoints: []Endpoint{{VNI: 4097, Addr: p.Addrs[0].Addr(), Node: netip.MustParseAddr("192.0.2.9")}}}
	w := want(s, facts{ports: []port{p}}, 4789)
	e := w[endpointObject{datapath.EndpointKey{VNI: 4097, Addr: datapath.AddrOf(p.Addrs[0].Addr())}}].(datapath.Endpoint)
	if !e.Local() {
		t.Errorf("endpoint: %+v", e)
	}
}

func TestOnlyTheMeshNetworkHasRoutes(t *testing.T) {
	for mesh, routes := range map[bool]int{false: 0, true: 1} {
		n := 0
		for o := range want(State{}, facts{ports: []port{testPort(mesh)}}, 4789) {
			if _, ok := o.(routeObject); ok {
				n++
			}
		}
		if n != routes {
			t.Errorf("mesh %v: %d routes", mesh, n)
		}
	}
}

func TestAliasesComeBack(t *testing.T) {
	a := Attachment{
		ID:        "37d588c4af46c807a2f0c6bc3e72d39ca3ae5aaaea6e899abc9ecdc297929098",
		NetworkID: "abcdefghijklmnopqrstuvwxy", VNI: maxVNI, Mesh: true, MAC: "02:42:0a:ff:ff:07",
		TaskID: "abcdefghijklmnopqrstuvwxy", Addrs: []netip.Prefix{
			netip.MustParsePrefix("10.255.255.107/16"), netip.MustParsePrefix("fdff:1234:5678:9abc:def0:1234:5678:9abc/128"),
		},
	}
	s, err := encodeAlias(a)
	if err != nil {
		t.Fatal(err)
	}
	if len(s) > 255 {
		t.Errorf("%d bytes are more than the kernel takes: %s", len(s), s)
	}
	back, ok := decodeAlias(s)
	if !ok || back.TaskID != a.TaskID || !slices.Equal(back.Addrs, a.Addrs) || back.ID != a.ID || back.MAC != a.MAC {
		t.Errorf("came back as %+v", back)
	}
	a.MAC = MACFor(a.Addrs[0].Addr())
	if s, err = encodeAlias(a); err != nil || strings.Contains(s, `"m"`) {
		t.Errorf("a MAC that follows from the address is kept: %s, %v", s, err)
	}
	if back, _ := decodeAlias(s); back.MAC != a.MAC {
		t.Errorf("MAC came back as %s", back.MAC)
	}
	// As the first version wrote it.
	if back, ok := decodeAlias(`mesh:{"i":"x","a":["10.0.1.2/24"],"m":"02:42:0a:00:01:99"}`); !ok || back.MAC != "02:42:0a:00:01:99" {
		t.Errorf("old alias: %+v", back)
	}
	for _, other := range []string{"", "eth0", "mesh:", "mesh:{}", `{"i":"x"}`} {
		if _, ok := decodeAlias(other); ok {
			t.Errorf("%q is taken for ours", other)
		}
	}
}

func TestAttachmentsAreChecked(t *testing.T) {
	good := testPort(false).Attachment
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*Attachment){
		"short ID":   func(a *Attachment) { a.ID = "x" },
		"no VNI":     func(a *Attachment) { a.VNI = 0 },
		"big VNI":    func(a *Attachment) { a.VNI = 1 << 24 },
		"no address": func(a *Attachment) { a.Addrs = nil },
		"no MAC":     func(a *Attachment) { a.MAC = "" },
		"long MAC":   func(a *Attachment) { a.MAC = "02:42:0a:00:01:02:03:04" },
	} {
		a := good
		spoil(&a)
		if a.check() == nil {
			t.Errorf("%s: taken", what)
		}
	}
}
