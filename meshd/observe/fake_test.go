package observe

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ebpf"
	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/orchestrator/consensus"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
	"github.com/meshd/meshd/overlay/link"
)

func at(s string) netip.Addr { return netip.MustParseAddr(s) }

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// fakes are the parts of a node as a test wants them.
type fakes struct {
	drops       map[string]uint64
	dropsErr    error
	differences []overlay.Difference
	lasting     int // how often differences are found; negative: always
	paths       map[netip.Addr]overlay.Path
	limit       int
	attached    []overlay.Attachment
	encrypted   []overlay.EncryptedPeer
	held        ipvs.State
	flows       []ebpf.Flow
	ejected     []ipvs.Ejected
	resolver    *dns.Server
	deaf        map[netip.AddrPort]error
	view        View
	member      Member
}

func (f *fakes) Drops() (map[string]uint64, error) { return f.drops, f.dropsErr }
func (f *fakes) TunnelLimit() int                  { return f.limit }
func (f *fakes) Repairs() map[string]uint64        { return map[string]uint64{"route": 3} }

func (f *fakes) Transports() map[overlay.Transport]int {
	return map[overlay.Transport]int{overlay.TransportDirect: 2}
}

func (f *fakes) EncryptedPeers() []overlay.EncryptedPeer { return f.encrypted }

func (f *fakes) Differences(overlay.State) ([]overlay.Difference, error) {
	if f.lasting == 0 {
		return nil, nil
	}
	f.lasting--
	return f.differences, nil
}

func (f *fakes) Path(_ uint32, to netip.Addr) (overlay.Path, error) {
	p, ok := f.paths[to]
	if !ok {
		p.Place = overlay.PlaceNowhere
	}
	return p, nil
}

func (f *fakes) Attachments() []overlay.Attachment { return f.attached }

type fakeKeeper struct{ f *fakes }

func (fakeKeeper) Repairs() map[string]uint64 { return map[string]uint64{"service": 1} }

func (k fakeKeeper) Differences(want ipvs.State) ([]ipvs.Difference, error) {
	if len(want.Services) != len(k.f.held.Services) {
		return []ipvs.Difference{{Kind: "service", What: "web", Want: "there", Have: "nothing"}}, nil
	}
	return nil, nil
}

func (k fakeKeeper) Ejected() []ipvs.Ejected { return k.f.ejected }

func (k fakeKeeper) Ejections() map[ipvs.EjectionCount]uint64 {
	out := map[ipvs.EjectionCount]uint64{}
	for _, e := range k.f.ejected {
		out[ipvs.EjectionCount{Key: e.Key, Service: e.Service, Failure: e.Failure}]++
	}
	return out
}

type fakeBalancer struct{ f *fakes }

func (b fakeBalancer) Stats() (ebpf.Stats, error) {
	s := ebpf.Stats{Drops: map[string]uint64{"no-backend": 5}}
	for _, svc := range b.f.held.Services {
		s.Services = append(s.Services, ebpf.ServiceStats{
			Key: svc.Key, Name: "web", Counts: ebpf.Counts{Connections: 7, Packets: 70}, Refused: map[string]uint64{"no-backend": 4},
			Backends: []ebpf.BackendStats{{
				Addr:   at("10.0.1.12"),
				Counts: ebpf.Counts{Connections: 5, Bytes: 500, AnswerBytes: 600, Refusals: 1, Timeouts: 2, Resets: 3},
			}},
		})
	}
	return s, nil
}

func (b fakeBalancer) Flows() ([]ebpf.Flow, error) { return b.f.flows, nil }
func (b fakeBalancer) Held() (ipvs.State, error)   { return b.f.held, nil }

type fakeResolver struct {
	*dns.Server
	f *fakes
}

func (r fakeResolver) Probe(context.Context, time.Duration) map[netip.AddrPort]error { return r.f.deaf }

// twoNodes is node a, where a task of "web" and a task of "client" run, and node b
// with another task of "web", all on network front.
func twoNodes() *fakes {
	endpoint := func(task, service, node, name, mesh string, front ...string) (protocol.Endpoint, protocol.Endpoint) {
		e := protocol.Endpoint{TaskID: task, ServiceID: service, NodeID: node, Name: name, State: protocol.EndpointServing}
		onMesh, onFront := e, e
		onMesh.Addrs = []netip.Addr{at(mesh)}
		for _, a := range front {
			onFront.Addrs = append(onFront.Addrs, at(a))
		}
		return onMesh, onFront
	}
	m1, f1 := endpoint("t1", "s1", "a", "web.1.t1", "10.255.0.11", "10.0.1.11")
	m2, f2 := endpoint("t2", "s1", "b", "web.2.t2", "10.255.0.12", "10.0.1.12")
	m3, f3 := endpoint("t3", "s2", "a", "client.1.t3", "10.255.0.13", "10.0.1.13")
	in := plan.Input{
		Self: "a", SelfAddr: at("198.18.0.1"), Interfaces: []plan.Interface{{Name: "eth0", Addrs: []netip.Addr{at("198.18.0.1")}}},
		Nodes: []protocol.Node{{ID: "a", Hostname: "node1", DataAddr: at("198.18.0.1")}, {ID: "b", Hostname: "node2", DataAddr: at("198.18.0.2")}},
		Networks: []protocol.Network{
			{
				ID: "mesh", Name: "ingress", VNI: 4096, Ingress: true, Revision: 20,
				Subnets:   []protocol.Subnet{{Prefix: netip.MustParsePrefix("10.255.0.0/16"), Gateway: at("10.255.0.1")}},
				Services:  []protocol.Service{{ID: "s1", Name: "web", Ports: []swarm.PortConfig{{PublishedPort: 8080, TargetPort: 80, Protocol: "tcp"}}}},
				Endpoints: []protocol.Endpoint{m1, m2, m3},
			},
			{
				ID: "n1", Name: "front", VNI: 4097, Revision: 20,
				Subnets:   []protocol.Subnet{{Prefix: netip.MustParsePrefix("10.0.1.0/24"), Gateway: at("10.0.1.1")}},
				Services:  []protocol.Service{{ID: "s1", Name: "web", VIPs: []netip.Addr{at("10.0.1.2")}}, {ID: "s2", Name: "client", VIPs: []netip.Addr{at("10.0.1.3")}}},
				Endpoints: []protocol.Endpoint{f1, f2, f3},
			},
			{
				ID: "n2", Name: "back", VNI: 4098, Revision: 20,
				Subnets:  []protocol.Subnet{{Prefix: netip.MustParsePrefix("10.0.2.0/24"), Gateway: at("10.0.2.1")}},
				Services: []protocol.Service{{ID: "s3", Name: "db", VIPs: []netip.Addr{at("10.0.2.2")}}},
			},
		},
		Tasks: []protocol.Assignment{assignment("t1", "web", "10.255.0.11", "10.0.1.11"), assignment("t3", "client", "10.255.0.13", "10.0.1.13")},
	}
	desired := plan.Compile(in)
	f := &fakes{
		drops: map[string]uint64{"isolated": 2}, paths: map[netip.Addr]overlay.Path{}, resolver: dns.New(dns.Config{}),
		view: View{
			Self: "a", Told: true, Nodes: in.Nodes, Networks: in.Networks, Tasks: in.Tasks, Desired: desired,
			Held: map[string]uint64{"mesh": 20, "n1": 20, "n2": 20},
		},
		member: Member{
			CertificateExpires: time.Unix(2000000000, 0), Tasks: map[swarm.TaskState]int{swarm.TaskStateRunning: 2},
			Raft: &consensus.Stats{Leading: true, Leader: "a", Term: 3, LastIndex: 21, CommitIndex: 20, AppliedIndex: 20, Members: 1},
		},
	}
	f.resolver.Set(desired.DNS)
	var err error
	if f.held, err = ipvs.Normalize(desired.IPVS); err != nil {
		panic(err)
	}
	for _, e := range []protocol.Endpoint{m1, f1, m3, f3} {
		vni := uint32(4097)
		if e.Addrs[0].As4()[1] == 255 {
			vni = 4096
		}
		f.attached = append(f.attached, overlay.Attachment{ID: "port-" + e.TaskID, VNI: vni, Addrs: []netip.Prefix{netip.PrefixFrom(e.Addrs[0], 24)}})
		f.paths[e.Addrs[0]] = overlay.Path{Place: overlay.PlaceHere, Network: true, Device: "mvport-" + e.TaskID, Guarded: true, MTU: 1450, Overhead: 50}
	}
	f.paths[at("10.0.1.12")] = overlay.Path{
		Place: overlay.PlaceNode, Network: true, Node: at("198.18.0.2"), Peer: true, Tunnel: true,
		Way: link.Way{Device: "eth0", Source: at("198.18.0.1"), MTU: 1500}, MTU: 1450, Overhead: 50,
	}
	f.paths[at("10.255.0.12")] = f.paths[at("10.0.1.12")]
	return f
}

func assignment(id, service, mesh, front string) protocol.Assignment {
	return protocol.Assignment{ServiceName: service, Task: swarm.Task{ID: id, Slot: 1, NodeID: "a", NetworksAttachments: []swarm.NetworkAttachment{
		{Network: swarm.Network{ID: "mesh"}, Addresses: []netip.Prefix{netip.PrefixFrom(at(mesh), 16)}},
		{Network: swarm.Network{ID: "n1"}, Addresses: []netip.Prefix{netip.PrefixFrom(at(front), 24)}},
	}}}
}

func (f *fakes) observer(t *testing.T) *Observer {
	t.Helper()
	o, err := New(Config{
		Sources: Sources{
			Overlay: f, Keeper: fakeKeeper{f}, Balancer: fakeBalancer{f}, Resolver: fakeResolver{f.resolver, f},
			View: func() View { return f.view }, Member: func() Member { return f.member },
			Maps: func() ([]MapFill, error) { return []MapFill{{"balancer", "slots", 7, 100}}, nil },
		},
		Version: "1.2.3", Clock: func() time.Time { return time.Unix(1000, 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

var errBroken = errors.New("broken")
