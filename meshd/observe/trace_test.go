package observe

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
)

// steps is a trace in one string; broken hops have an exclamation mark.
func steps(tr Trace) string {
	var out []string
	for _, s := range tr.Steps {
		hop := s.Hop
		if !s.OK {
			hop += "!"
		}
		out = append(out, hop)
	}
	return strings.Join(out, " ")
}

func TestTraceFollowsEveryWay(t *testing.T) {
	const from = "container container "
	for name, c := range map[string]struct {
		to      string
		change  func(*fakes)
		want    string
		says    string
		reaches bool
	}{
		"name":           {to: "web:80", want: from + "name network vip endpoint endpoint tunnel mtu", says: "10.0.1.12 (web.2.t2, serving) is on node node2", reaches: true},
		"tasks":          {to: "tasks.web", want: from + "name network endpoint network endpoint tunnel mtu", says: "tasks.web is 10.0.1.11, 10.0.1.12", reaches: true},
		"VIP":            {to: "10.0.1.2:80", want: from + "network vip endpoint endpoint tunnel mtu", says: "VIP 10.0.1.2 of service web", reaches: true},
		"container":      {to: "10.0.1.11", want: from + "network endpoint", says: "on this node, interface mvport-t1", reaches: true},
		"nobody":         {to: "10.0.1.99", want: from + "network endpoint!", says: "no-endpoint"},
		"other network":  {to: "db", want: from + "name!", says: "db is a name on network back"},
		"foreign":        {to: "10.0.2.2", want: from + "network!", says: "which client.1.t3 is not on"},
		"mesh":           {to: "10.255.0.11", want: from + "network!", says: "not each other"},
		"unknown name":   {to: "nowhere", want: from + "name!", says: "unknown"},
		"world":          {to: "192.0.2.80:443", want: from + "way out", says: "this node's own routing", reaches: true},
		"published here": {to: "198.18.0.1:8080", want: from + "port endpoint endpoint tunnel mtu", says: "port 8080/tcp of this node of service web", reaches: true},
		"published":      {to: "node2:8080", want: from + "name port endpoint endpoint tunnel mtu", says: "of node node2 of service web", reaches: true},
		"not published":  {to: "198.18.0.2:81", want: from + "way out", says: "publishes no port 81", reaches: true},
		"no backend": {to: "client", want: from + "name network vip!", says: "no serving backend", change: func(f *fakes) {
			for i := range f.held.Services {
				f.held.Services[i].Backends = nil
			}
		}},
		"an ejected backend": {to: "web", want: from + "name network vip endpoint endpoint tunnel mtu", says: "10.0.1.12 (ejected: it failed", reaches: true, change: func(f *fakes) {
			for i, s := range f.held.Services {
				for j, b := range s.Backends {
					f.held.Services[i].Backends[j].Ejected = b.Addr == at("10.0.1.12")
				}
			}
		}},
		"VIP not held": {to: "web", want: from + "name network vip!", says: "the kernel does not hold it", change: func(f *fakes) { f.held.Services = nil }},
		"small MTU": {to: "10.0.1.12", want: from + "network endpoint tunnel mtu!", says: "do not fit the way's MTU of 1420", change: func(f *fakes) {
			f.change("10.0.1.12", func(p *overlay.Path) { p.Way.MTU = 1420 })
		}},
		"no route": {to: "10.0.1.12", want: from + "network endpoint tunnel!", says: "network is unreachable", change: func(f *fakes) {
			f.change("10.0.1.12", func(p *overlay.Path) { p.NoWay = "network is unreachable" })
		}},
		"no tunnel": {to: "10.0.1.12", want: from + "network endpoint tunnel!", says: "mesh-vx0", change: func(f *fakes) {
			f.change("10.0.1.12", func(p *overlay.Path) { p.Tunnel = false })
		}},
		"stranger": {to: "10.0.1.12", want: from + "network endpoint tunnel!", says: "unknown-peer", change: func(f *fakes) {
			f.change("10.0.1.12", func(p *overlay.Path) { p.Peer = false })
		}},
		"wrong node": {to: "10.0.1.12", want: from + "network endpoint tunnel!", says: "the kernel sends to 198.18.0.9", change: func(f *fakes) {
			f.change("10.0.1.12", func(p *overlay.Path) { p.Node = at("198.18.0.9") })
		}},
		"node down":  {to: "10.0.1.12", want: from + "network endpoint tunnel!", says: "is down", change: func(f *fakes) { f.view.Nodes[1].Down = true }},
		"no program": {to: "web", want: "container! container!", says: "nothing looks at", change: func(f *fakes) { f.unguard("10.0.1.13", "10.255.0.13") }},
		"no interface": {to: "web", want: "container! container!", says: "has no interface", change: func(f *fakes) {
			delete(f.paths, at("10.0.1.13"))
			delete(f.paths, at("10.255.0.13"))
		}},
		"refused": {to: "web", want: from + "name!", says: "does not know 10.255.0.13", change: func(f *fakes) { f.resolver.Set(dns.State{}) }},
	} {
		t.Run(name, func(t *testing.T) {
			f := twoNodes()
			if c.change != nil {
				c.change(f)
			}
			tr, err := f.observer(t).Trace(t.Context(), "client.1.t3", c.to)
			if err != nil {
				t.Fatal(err)
			}
			said := ""
			for _, s := range tr.Steps {
				said += s.Says + "\n"
				if s.OK == (s.Advice != "") {
					t.Errorf("step with the wrong advice: %+v", s)
				}
			}
			if steps(tr) != c.want || !strings.Contains(said, c.says) || tr.Reaches != c.reaches {
				t.Errorf("%s, reaches %v\nwant %s, %v, %q in\n%s", steps(tr), tr.Reaches, c.want, c.reaches, c.says, said)
			}
		})
	}
}

func (f *fakes) change(addr string, fn func(*overlay.Path)) {
	p := f.paths[at(addr)]
	fn(&p)
	f.paths[at(addr)] = p
}

func (f *fakes) unguard(addrs ...string) {
	for _, a := range addrs {
		f.change(a, func(p *overlay.Path) { p.Guarded = false })
	}
}

func TestTraceFindsItsContainer(t *testing.T) {
	f := twoNodes()
	f.attached = append(f.attached, overlay.Attachment{ID: "by-hand", VNI: 4097, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.1.50/24")}})
	o := f.observer(t)
	for ref, want := range map[string]string{
		"t3": "client.1.t3", "client.1": "client.1.t3", "client.1.t3": "client.1.t3", "10.0.1.13": "client.1.t3", "10.255.0.13": "client.1.t3",
		"10.0.1.50": "container at 10.0.1.50",
	} {
		if tr, err := o.Trace(t.Context(), ref, "10.0.1.11"); err != nil || tr.From != want {
			t.Errorf("%s: %q, %v", ref, tr.From, err)
		}
	}
	for ref, want := range map[string]string{"web.2.t2": "on node node2", "nobody": "there are client.1.t3, web.1.t1", "10.0.1.12": "on node node2"} {
		if _, err := o.Trace(t.Context(), ref, "web"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for _, to := range []string{"web:0", "web:http", "[fd00::1", "a:b:c"} {
		if _, err := o.Trace(t.Context(), "t3", to); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", to, err)
		}
	}
}

func TestTraceLeavesFromTheSameIPVersion(t *testing.T) {
	four, six := netip.MustParseAddr("10.0.1.13"), netip.MustParseAddr("fd00::13")
	front := protocol.Network{ID: "front"}
	both := container{places: []place{{front, four}, {front, six}}}
	for _, c := range []struct {
		from     container
		to, want string
		member   bool
	}{
		{both, "10.0.1.2", "10.0.1.13", true},
		{both, "fd00::2", "fd00::13", true},
		{container{places: both.places[:1]}, "fd00::2", "10.0.1.13", true},
		{container{}, "10.0.1.2", "invalid IP", false},
	} {
		if got, member := c.from.on("front", netip.MustParseAddr(c.to)); got.String() != c.want || member != c.member {
			t.Errorf("to %s: from %s, %v", c.to, got, member)
		}
	}
}
