package allocator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
	"github.com/meshd/meshd/orchestrator/tasklife"
	"github.com/meshd/meshd/overlay/ipam"
)

// world is a cluster with nothing but an allocator, in a synctest bubble.
type world struct {
	*testing.T
	store *store.Store
	prop  *storetest.Proposer
	stop  func()
}

func inWorld(t *testing.T, fn func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		s, prop := storetest.New()
		w := &world{T: t, store: s, prop: prop}
		w.start()
		c := &store.Cluster{}
		c.ID, c.DefaultAddrPool, c.SubnetSize = "cluster", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, 24
		w.create(c, mesh())
		fn(w)
		w.check()
		w.stop()
	})
}

// start runs an allocator, as on a new leader.
func (w *world) start() {
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan error)
	loop := New(Config{Store: w.store, Proposer: w.prop, Log: slog.New(slog.DiscardHandler)})
	go func() { done <- loop.Run(ctx) }()
	synctest.Wait()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	}
}

func mesh() *store.Network {
	n := net("ingress", "10.255.0.0/16")
	n.Spec.Ingress, n.VNI = true, 4096
	return n
}

func net(name string, subnets ...string) *store.Network {
	n := &store.Network{}
	n.ID, n.Spec.Name = "id-"+name, name
	for _, s := range subnets {
		if n.Spec.IPAMOptions == nil {
			n.Spec.IPAMOptions = &swarm.IPAMOptions{}
		}
		n.Spec.IPAMOptions.Configs = append(n.Spec.IPAMOptions.Configs, swarm.IPAMConfig{Subnet: netip.MustParsePrefix(s)})
	}
	return n
}

// ula is a subnet of the cluster's unique local range.
func ula(n byte) string {
	raw := ipam.UniqueLocal("cluster").Addr().As16()
	raw[7] = n
	return netip.PrefixFrom(netip.AddrFrom16(raw), 64).String()
}

func (w *world) do(fn func(tx *store.Tx)) {
	w.Helper()
	storetest.Do(w, w.store, w.prop, fn)
	synctest.Wait()
}

func (w *world) create(objects ...store.Object) {
	w.Helper()
	w.do(func(tx *store.Tx) {
		for _, o := range objects {
			tx.Create(o)
		}
	})
}

// service makes a service and its template.
func (w *world) service(name string, networks []string, ports ...swarm.PortConfig) {
	s := &store.Service{SpecVersion: 1}
	s.ID, s.Spec.Name = name, name
	s.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: ports}
	for _, n := range networks {
		s.Spec.TaskTemplate.Networks = append(s.Spec.TaskTemplate.Networks, swarm.NetworkAttachmentConfig{Target: n})
	}
	w.create(s, &store.Spec{ServiceID: name, Number: 1, Template: s.Spec.TaskTemplate})
}

func (w *world) tasks(service string, from, to int) {
	var objects []store.Object
	for i := from; i <= to; i++ {
		t := &store.Task{SpecVersion: 1}
		t.ID, t.ServiceID, t.Slot = fmt.Sprintf("%s.%04d", service, i), service, i
		t.DesiredState, t.Status.State = swarm.TaskStateRunning, swarm.TaskStateNew
		objects = append(objects, t)
	}
	w.create(objects...)
}

func (w *world) view(fn func(v *store.View)) { w.store.View(fn) }

// check looks for addresses and ports that two have.
func (w *world) check() {
	w.Helper()
	w.view(func(v *store.View) {
		owner := map[claim]string{}
		put := func(who string, cs []claim) {
			for _, c := range cs {
				if other := owner[c]; other != "" {
					w.Errorf("%s and %s both have %s", other, who, c.addr)
				}
				owner[c] = who
			}
		}
		ports := map[port]string{}
		for _, s := range v.Services() {
			cs, ps := claimsOfService(s)
			put(s.ID, cs)
			for _, p := range ps {
				if ports[p] != "" {
					w.Errorf("%s and %s both publish %v", ports[p], s.ID, p)
				}
				ports[p] = s.ID
			}
		}
		for _, t := range v.Tasks() {
			if !tasklife.Ended(t) {
				put(t.ID, claimsOfTask(t))
			}
		}
	})
}

func (w *world) count(state swarm.TaskState) (n int) {
	w.view(func(v *store.View) {
		for _, t := range v.Tasks() {
			if t.Status.State == state {
				n++
			}
		}
	})
	return n
}

func TestNetworks(t *testing.T) {
	inWorld(t, func(w *world) {
		n := &store.Node{DataAddr: netip.MustParseAddr("10.0.1.7")}
		n.ID = "node"
		w.create(n)
		six := net("six")
		six.Spec.IPv6Enabled = true
		both := net("both", "fd00:7::/64")
		both.Spec.IPv6Enabled = true
		only := net("only")
		only.Spec.IPv6Enabled = true
		only.Spec.DriverConfiguration = &swarm.Driver{Options: map[string]string{store.OptionIPv4: "false"}}
		w.create(net("a"), net("b"), net("given", "10.0.3.0/24"), six)
		w.create(net("late"))
		w.create(both)
		w.create(only)
		want := map[string]struct {
			subnet string
			vni    uint32
		}{
			"ingress": {"10.255.0.0/16", 4096}, "a": {"10.0.0.0/24", 4097}, "b": {"10.0.2.0/24", 4098},
			"given": {"10.0.3.0/24", 4099}, "six": {"10.0.4.0/24", 4100}, "late": {"10.0.5.0/24", 4101},
			"both": {"fd00:7::/64", 4102}, "only": {ula(1), 4103},
		}
		w.view(func(v *store.View) {
			for name, want := range want {
				n := v.NetworkByName(name)
				if !n.Ready || n.VNI != want.vni || n.IPAMOptions.Configs[0].Subnet.String() != want.subnet {
					t.Errorf("%s: ready %v, VNI %d, %+v, want %v", name, n.Ready, n.VNI, n.IPAMOptions, want)
					continue
				}
				if g := n.IPAMOptions.Configs[0].Gateway; g != netip.MustParsePrefix(want.subnet).Addr().Next() {
					t.Errorf("%s: gateway %s", name, g)
				}
				if got := n.DriverState.Options[vniOption]; got != fmt.Sprint(want.vni) {
					t.Errorf("%s: option %s", name, got)
				}
			}
			if c := v.NetworkByName("six").IPAMOptions.Configs; len(c) != 2 || c[1].Subnet.Bits() != 64 {
				t.Errorf("IPv6 network: %+v", c)
			}
			if c := v.NetworkByName("six").IPAMOptions.Configs; c[1].Subnet.String() != ula(0) {
				t.Errorf("IPv6 subnet %s", c[1].Subnet)
			}
			if c := v.NetworkByName("both").IPAMOptions.Configs; len(c) != 2 || c[1].Subnet.String() != "10.0.6.0/24" {
				t.Errorf("network of both: %+v", c)
			}
			if c := v.NetworkByName("only").IPAMOptions.Configs; len(c) != 1 {
				t.Errorf("network of IPv6 only: %+v", c)
			}
			if v.Cluster().LastVNI != 4103 {
				t.Errorf("last VNI %d", v.Cluster().LastVNI)
			}
		})
		// One that overlaps waits until the other is gone, and takes nothing from it.
		w.create(net("overlap", "10.0.0.0/23"))
		w.create(net("next"))
		w.view(func(v *store.View) {
			if v.NetworkByName("overlap").Ready {
				t.Error("an overlapping network was allocated")
			}
		})
		w.do(func(tx *store.Tx) { tx.Remove(tx.NetworkByName("a")) })
		w.view(func(v *store.View) {
			if n := v.NetworkByName("overlap"); !n.Ready || n.VNI != 4105 {
				t.Errorf("after the other was removed: ready %v, VNI %d", n.Ready, n.VNI)
			}
		})
	})
}

func TestServicesAndTasks(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(net("front"), net("back"))
		w.service("web", []string{"front", "id-back"}, swarm.PortConfig{TargetPort: 80, PublishedPort: 8080}, swarm.PortConfig{TargetPort: 81})
		w.service("quiet", []string{"front"})
		w.service("host", []string{"host"})
		w.tasks("web", 1, 3)
		w.tasks("quiet", 1, 1)
		w.tasks("host", 1, 1)
		w.view(func(v *store.View) {
			e := v.Service("web").Endpoint
			if len(e.VirtualIPs) != 3 || e.VirtualIPs[0].NetworkID != "id-ingress" || e.Spec.Mode != swarm.ResolutionModeVIP {
				t.Errorf("endpoint %+v", e)
			}
			if p := e.Ports; len(p) != 2 || p[0].PublishedPort != 8080 || p[1].PublishedPort != firstPort || p[0].Protocol != "tcp" {
				t.Errorf("ports %+v", p)
			}
			if e := v.Service("quiet").Endpoint; len(e.VirtualIPs) != 1 {
				t.Errorf("a service that publishes nothing: %+v", e)
			}
			task := v.Task("web.0002")
			if task.Status.State != swarm.TaskStatePending || task.Status.Message != "pending task scheduling" {
				t.Errorf("status %+v", task.Status)
			}
			var ids []string
			for _, a := range task.NetworksAttachments {
				ids = append(ids, a.Network.ID+" "+fmt.Sprint(a.Addresses[0].Bits()))
			}
			if strings.Join(ids, ",") != "id-ingress 16,id-front 24,id-back 24" {
				t.Errorf("attachments %v", ids)
			}
			if h := v.Task("host.0001"); h.Status.State != swarm.TaskStatePending || len(h.NetworksAttachments) != 0 {
				t.Errorf("host task %+v", h)
			}
		})
		// Detached from a network and one port fewer: the rest stays as it was.
		var before swarm.Endpoint
		w.view(func(v *store.View) { before = v.Service("web").Endpoint })
		w.do(func(tx *store.Tx) {
			s := *tx.Service("web")
			s.Spec.TaskTemplate.Networks = s.Spec.TaskTemplate.Networks[:1]
			s.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: s.Spec.EndpointSpec.Ports[1:]}
			tx.Update(&s)
		})
		w.view(func(v *store.View) {
			e := v.Service("web").Endpoint
			if len(e.VirtualIPs) != 2 || e.VirtualIPs[1] != before.VirtualIPs[1] || len(e.Ports) != 1 || e.Ports[0] != before.Ports[1] {
				t.Errorf("after the update %+v, before %+v", e, before)
			}
		})
		w.do(func(tx *store.Tx) {
			s := *tx.Service("web")
			s.Spec.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionModeDNSRR}
			tx.Update(&s)
		})
		w.view(func(v *store.View) {
			if e := v.Service("web").Endpoint; len(e.VirtualIPs) != 0 || len(e.Ports) != 0 {
				t.Errorf("dnsrr: %+v", e)
			}
		})
	})
}

func TestPortConflictHoldsTheServiceBack(t *testing.T) {
	inWorld(t, func(w *world) {
		p := swarm.PortConfig{TargetPort: 80, PublishedPort: 80}
		w.service("one", nil, p)
		w.service("two", nil, p)
		w.service("udp", nil, swarm.PortConfig{TargetPort: 80, PublishedPort: 80, Protocol: "udp"})
		w.tasks("two", 1, 2)
		w.tasks("udp", 1, 1)
		w.view(func(v *store.View) {
			if s := v.Task("two.0001").Status; s.State != swarm.TaskStateNew || s.Err != "port 80/tcp is already published by service one" {
				t.Errorf("status %+v", s)
			}
			if s := v.Task("udp.0001").Status; s.State != swarm.TaskStatePending {
				t.Errorf("status %+v", s)
			}
		})
		w.do(func(tx *store.Tx) { tx.Remove(tx.Service("one")) })
		if n := w.count(swarm.TaskStatePending); n != 3 {
			t.Errorf("%d tasks pending after the port came free", n)
		}
		w.view(func(v *store.View) {
			if s := v.Task("two.0001").Status; s.Err != "" {
				t.Errorf("the error stayed: %+v", s)
			}
		})
	})
}

func TestExhaustedSubnetIsRetried(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(net("small", "192.168.7.0/28"))
		w.service("web", []string{"small"})
		w.tasks("web", 1, 20)
		// 14 hosts: gateway, VIP, 12 tasks.
		if n := w.count(swarm.TaskStatePending); n != 12 {
			t.Fatalf("%d tasks have addresses", n)
		}
		w.view(func(v *store.View) {
			if s := v.Task("web.0020").Status; s.Err != "network small (192.168.7.0/28) has no free address: 14 of 14 in use; remove tasks from it, or give services a network with a larger subnet" {
				t.Errorf("status %+v", s)
			}
		})
		w.do(func(tx *store.Tx) {
			failed, gone := *tx.Task("web.0001"), tx.Task("web.0002")
			failed.Status.State = swarm.TaskStateFailed
			tx.Update(&failed)
			tx.Remove(gone)
		})
		if n := w.count(swarm.TaskStatePending); n != 12 {
			t.Errorf("%d tasks have addresses after two came free", n)
		}
		w.check()
	})
}

// What "network create" says of addresses holds for tasks and VIPs.
func TestGivenAddresses(t *testing.T) {
	inWorld(t, func(w *world) {
		n := net("given", "10.1.0.0/24", "10.2.0.0/29")
		n.Spec.IPAMOptions.Configs[0].Range = netip.MustParsePrefix("10.1.0.64/29")
		n.Spec.IPAMOptions.Configs[0].Gateway = netip.MustParseAddr("10.1.0.66")
		n.Spec.IPAMOptions.Configs[1].Gateway = netip.MustParseAddr("10.2.0.6")
		n.Aux = map[string]netip.Addr{"printer": netip.MustParseAddr("10.1.0.65"), "router": netip.MustParseAddr("10.2.0.2"), "far": netip.MustParseAddr("10.1.0.9")}
		w.create(n)
		w.service("web", []string{"given"})
		w.tasks("web", 1, 20)
		var got []string
		w.view(func(v *store.View) {
			got = append(got, v.Service("web").Endpoint.VirtualIPs[0].Addr.String())
			for _, task := range v.TasksOfService("web") {
				for _, a := range task.NetworksAttachments {
					if a.Network.ID == "id-given" {
						got = append(got, a.Addresses[0].String())
					}
				}
			}
			const want = "network given (10.1.0.0/24, range 10.1.0.64/29, 10.2.0.0/29) has no free address: 14 of 14 in use"
			if s := v.Task("web.0020").Status; !strings.HasPrefix(s.Err, want) {
				t.Errorf("status %+v", s)
			}
			c := v.Network("id-given").IPAMOptions.Configs
			if c[0].Range.String() != "10.1.0.64/29" || c[0].Gateway.String() != "10.1.0.66" || c[1].Gateway.String() != "10.2.0.6" {
				t.Errorf("configs %+v", c)
			}
		})
		const want = "10.1.0.64/24 10.1.0.67/24 10.1.0.68/24 10.1.0.69/24 10.1.0.70/24 10.1.0.71/24 10.2.0.1/29 10.2.0.3/29 10.2.0.4/29 10.2.0.5/29"
		if s := strings.Join(got, " "); s != want {
			t.Errorf("addresses %s, want %s", s, want)
		}
	})
}

// A network that no pool has room for says so, and its tasks do.
func TestNoPoolHasRoom(t *testing.T) {
	inWorld(t, func(w *world) {
		w.do(func(tx *store.Tx) {
			c := *tx.Cluster()
			c.DefaultAddrPool, c.SubnetSize = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/23")}, 24
			tx.Update(&c)
		})
		w.create(net("a"), net("b"))
		w.create(net("c"))
		w.service("web", []string{"c"})
		w.tasks("web", 1, 1)
		w.view(func(v *store.View) {
			const want = "no free subnet in the address pools (10.9.0.0/23; 3 subnets in use, 0 nodes and routes to keep clear of)"
			if n := v.NetworkByName("c"); n.Ready || n.Error != want {
				t.Errorf("ready %v, error %q", n.Ready, n.Error)
			}
			if s := v.Task("web.0001").Status; s.Err != "network c: "+want {
				t.Errorf("task %+v", s)
			}
		})
		w.do(func(tx *store.Tx) { tx.Remove(tx.NetworkByName("a")) })
		w.view(func(v *store.View) {
			if n := v.NetworkByName("c"); !n.Ready || n.Error != "" || n.IPAMOptions.Configs[0].Subnet.String() != "10.9.0.0/24" {
				t.Errorf("after another was removed: %+v", n)
			}
		})
		if w.count(swarm.TaskStatePending) != 1 {
			t.Error("the task still waits")
		}
	})
}

// Subnets keep clear of the nodes and of what the leader's machine has routes to.
func TestDefaultSubnetsAvoidTheMachines(t *testing.T) {
	c := &store.Cluster{}
	c.ID = "cluster"
	b := newBook(c)
	n := &store.Node{DataAddr: netip.MustParseAddr("10.0.70.7")}
	n.ID = "node"
	s, prop := storetest.New()
	storetest.Create(t, s, prop, c, n)
	l := New(Config{Store: s, Proposer: prop, Log: slog.New(slog.DiscardHandler), HostRoutes: func() ([]netip.Prefix, error) {
		return []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.128.0/17")}, nil
	}})
	storetest.Do(t, s, prop, func(tx *store.Tx) {
		last := uint32(4096)
		next, err := b.network(net("a"), &last, l.avoid(tx))
		if err != nil || next.IPAMOptions.Configs[0].Subnet.String() != "10.1.0.0/18" {
			t.Errorf("%+v %v", next, err)
		}
	})
}

// As many tasks are tried again as there is room for, and all that is free is used
// in the end, whichever of two networks was short.
func TestTasksThatWaitForTwoNetworks(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(net("a", "10.1.0.0/28"), net("b", "10.2.0.0/28"))
		w.service("both", []string{"a", "b"})
		w.service("a", []string{"a"})
		w.service("b", []string{"b"})
		w.tasks("a", 1, 5)
		w.tasks("b", 1, 9)
		w.tasks("both", 1, 40) // 6 addresses are free in a, 2 in b
		pending := func() (n int) {
			w.view(func(v *store.View) {
				for _, t := range v.TasksOfService("both") {
					if t.Status.State == swarm.TaskStatePending {
						n++
					}
				}
			})
			return n
		}
		if n := pending(); n != 2 {
			t.Fatalf("%d tasks have addresses, want 2", n)
		}
		w.do(func(tx *store.Tx) {
			for _, t := range tx.TasksOfService("b") {
				tx.Remove(t)
			}
		})
		if n := pending(); n != 6 {
			t.Errorf("%d tasks have addresses, want 6", n)
		}
		w.do(func(tx *store.Tx) {
			for _, t := range tx.TasksOfService("a") {
				tx.Remove(t)
			}
		})
		if n := pending(); n != 11 {
			t.Errorf("%d tasks have addresses, want 11", n)
		}
	})
}

func TestUnknownNetwork(t *testing.T) {
	inWorld(t, func(w *world) {
		w.service("web", []string{"later"})
		w.tasks("web", 1, 1)
		w.view(func(v *store.View) {
			if s := v.Task("web.0001").Status; s.Err != "network later not found" {
				t.Errorf("status %+v", s)
			}
		})
		w.create(net("later"))
		if w.count(swarm.TaskStatePending) != 1 {
			t.Error("the task still waits")
		}
	})
}

func TestNewLeaderGoesOn(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(net("front"))
		w.service("web", []string{"front"}, swarm.PortConfig{TargetPort: 80})
		w.tasks("web", 1, 50)
		w.stop()
		w.tasks("web", 51, 100)
		w.service("other", []string{"front"}, swarm.PortConfig{TargetPort: 80})
		w.create(net("more"))
		w.start()
		if n := w.count(swarm.TaskStatePending); n != 100 {
			t.Errorf("%d tasks have addresses", n)
		}
		w.view(func(v *store.View) {
			if n := v.NetworkByName("more"); !n.Ready || n.VNI != 4098 || n.IPAMOptions.Configs[0].Subnet.String() != "10.0.1.0/24" {
				t.Errorf("%+v", n)
			}
		})
	})
}

// What came free last is not what a new leader gives out first.
func TestNewLeaderReusesLate(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(net("gone"))
		w.create(net("front"))
		w.service("web", []string{"front"})
		w.tasks("web", 1, 3)
		time.Sleep(time.Second)
		w.tasks("web", 4, 5)
		w.do(func(tx *store.Tx) {
			ended := *tx.Task("web.0005")
			ended.Status.State = swarm.TaskStateFailed
			tx.Update(&ended)
			tx.Remove(tx.Task("web.0001"))
			tx.Remove(tx.NetworkByName("gone"))
		})
		w.stop()
		w.start()
		w.create(net("next"))
		w.tasks("web", 6, 6)
		w.view(func(v *store.View) {
			if a := v.Task("web.0006").NetworksAttachments[1].Addresses[0]; a.String() != "10.0.1.8/24" {
				t.Errorf("a new task has %s", a) // .2 is the VIP, .3 to .7 were the others'
			}
			if s := v.NetworkByName("next").IPAMOptions.Configs[0].Subnet; s.String() != "10.0.2.0/24" {
				t.Errorf("a new network has %s", s)
			}
		})
	})
}

// A batch that is refused must leave no trace in the book.
func TestRefusedBatchesLoseNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(net("small", "192.168.7.0/28"))
		w.service("web", []string{"small"})
		n := 0
		w.prop.Refuse(func(b store.Batch) error {
			if b.Changes[0].Action != store.Update {
				return nil
			}
			if n++; n <= 10 {
				return store.ErrSequence
			}
			if n <= 12 {
				return errors.New("no quorum")
			}
			return nil
		})
		w.tasks("web", 1, 12)
		<-time.After(time.Minute)
		if got := w.count(swarm.TaskStatePending); got != 12 {
			t.Errorf("%d tasks have addresses", got)
		}
	})
}
