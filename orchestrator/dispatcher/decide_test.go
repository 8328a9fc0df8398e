package dispatcher

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
)

// world is a small cluster: the mesh network, a user network, a service "web"
// that publishes a port and a service "db" that does not.
type world struct {
	t        *testing.T
	store    *store.Store
	proposer *storetest.Proposer
}

func newWorld(t *testing.T) *world {
	w := &world{t: t}
	w.store, w.proposer = storetest.New()
	w.change(func(tx *store.Tx) {
		tx.Create(&store.Cluster{})
		tx.Create(network("mesh", 4096, "10.255.0.0/16", true))
		tx.Create(network("user", 4097, "10.0.0.0/24", false))
		for _, id := range []string{"n1", "n2", "n3"} {
			n := &store.Node{Node: swarm.Node{ID: id}}
			n.Status.State = swarm.NodeStateReady
			tx.Create(n)
		}
		web := service("web", "user")
		web.Endpoint.Ports = []swarm.PortConfig{
			{Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: swarm.PortConfigPublishModeIngress},
			{Protocol: "tcp", TargetPort: 81, PublishedPort: 8081, PublishMode: swarm.PortConfigPublishModeHost},
		}
		web.Endpoint.VirtualIPs = []swarm.EndpointVirtualIP{
			{NetworkID: "user", Addr: netip.MustParsePrefix("10.0.0.2/24")},
			{NetworkID: "mesh", Addr: netip.MustParsePrefix("10.255.0.2/16")},
		}
		tx.Create(web)
		tx.Create(service("db", "user"))
		for _, s := range []string{"web", "db"} {
			spec := swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Hostname: "h-" + s}}
			if s == "db" {
				spec.ContainerSpec.Secrets = []*swarm.SecretReference{{SecretID: "pw"}}
			}
			tx.Create(&store.Spec{ServiceID: s, Number: 1, Template: spec, RegistryAuth: "auth"})
		}
		for _, id := range []string{"pw", "other"} {
			secret := swarm.Secret{ID: id}
			secret.Spec.Name = id
			tx.Create(&store.Secret{Secret: secret})
		}
	})
	return w
}

func network(id string, vni uint32, subnet string, mesh bool) *store.Network {
	prefix := netip.MustParsePrefix(subnet)
	n := &store.Network{VNI: vni, Ready: true}
	n.ID, n.Spec.Name, n.Spec.Ingress = id, id+"-net", mesh
	n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: prefix, Gateway: prefix.Addr().Next()}}}
	return n
}

func service(id, network string) *store.Service {
	s := &store.Service{SpecVersion: 1}
	s.ID, s.Spec.Name = id, id
	s.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: network, Aliases: []string{id + "-alias"}}}
	return s
}

// task makes a task on the mesh and the user network; its number gives its addresses.
func task(id, service, node string, number byte, state swarm.TaskState) *store.Task {
	t := &store.Task{SpecVersion: 1}
	t.ID, t.ServiceID, t.NodeID, t.Slot = id, service, node, int(number)
	t.Status.State, t.DesiredState = state, swarm.TaskStateRunning
	for network, addr := range map[string]netip.Addr{
		"mesh": netip.AddrFrom4([4]byte{10, 255, 0, number}),
		"user": netip.AddrFrom4([4]byte{10, 0, 0, number}),
	} {
		a := swarm.NetworkAttachment{Addresses: []netip.Prefix{netip.PrefixFrom(addr, 24)}}
		a.Network.ID = network
		t.NetworksAttachments = append(t.NetworksAttachments, a)
	}
	return t
}

func (w *world) change(fn func(*store.Tx)) {
	w.t.Helper()
	err := store.Transact(context.Background(), w.store, w.proposer, func(tx *store.Tx) error {
		fn(tx)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) add(t *store.Task) {
	w.t.Helper()
	w.change(func(tx *store.Tx) { tx.Create(t) })
}

func (w *world) set(id string, state, desired swarm.TaskState) {
	w.t.Helper()
	w.change(func(tx *store.Tx) {
		t := *tx.Task(id)
		t.Status.State, t.DesiredState = state, desired
		tx.Update(&t)
	})
}

func (w *world) index() (i uint64) {
	w.store.View(func(v *store.View) { i = v.Index() })
	return i
}

func TestOfferFollowsTheTaskStates(t *testing.T) {
	for _, c := range []struct {
		state, desired swarm.TaskState
		want           protocol.EndpointState
	}{
		{swarm.TaskStatePending, swarm.TaskStateRunning, ""},
		{swarm.TaskStateAssigned, swarm.TaskStateReady, protocol.EndpointStarting},
		{swarm.TaskStateStarting, swarm.TaskStateRunning, protocol.EndpointStarting},
		{swarm.TaskStateRunning, swarm.TaskStateRunning, protocol.EndpointServing},
		{swarm.TaskStateRunning, swarm.TaskStateShutdown, protocol.EndpointDraining},
		{swarm.TaskStateRunning, swarm.TaskStateRemove, protocol.EndpointDraining},
		{swarm.TaskStatePreparing, swarm.TaskStateShutdown, ""},
		{swarm.TaskStateFailed, swarm.TaskStateRunning, ""},
		{swarm.TaskStateShutdown, swarm.TaskStateShutdown, ""},
		{swarm.TaskStateOrphaned, swarm.TaskStateShutdown, ""},
		{"nonsense", swarm.TaskStateRunning, ""},
	} {
		x := task("t", "web", "n1", 9, c.state)
		x.DesiredState = c.desired
		if got := offer(x); got != c.want {
			t.Errorf("observed %s, desired %s: got %q, want %q", c.state, c.desired, got, c.want)
		}
	}
	if got := offer(task("t", "web", "", 9, swarm.TaskStateRunning)); got != "" {
		t.Errorf("a task without a node is offered: %q", got)
	}
}

func TestAssignedUntilRemovedAndEnded(t *testing.T) {
	for _, c := range []struct {
		state, desired swarm.TaskState
		want           bool
	}{
		{swarm.TaskStateNew, swarm.TaskStateRunning, false},
		{swarm.TaskStatePending, swarm.TaskStateRunning, false},
		{swarm.TaskStateAssigned, swarm.TaskStateReady, true},
		{swarm.TaskStateRunning, swarm.TaskStateShutdown, true},
		{swarm.TaskStateFailed, swarm.TaskStateShutdown, true},
		{swarm.TaskStateRunning, swarm.TaskStateRemove, true},
		{swarm.TaskStateShutdown, swarm.TaskStateRemove, false},
	} {
		x := task("t", "web", "n1", 9, c.state)
		x.DesiredState = c.desired
		if got := assigned(x); got != c.want {
			t.Errorf("observed %s, desired %s: got %v", c.state, c.desired, got)
		}
	}
}

func TestStatesAdvanceOnly(t *testing.T) {
	for _, c := range []struct {
		old, next swarm.TaskStatus
		want      bool
	}{
		{swarm.TaskStatus{State: "assigned"}, swarm.TaskStatus{State: "running"}, true},
		{swarm.TaskStatus{State: "running"}, swarm.TaskStatus{State: "starting"}, false},
		{swarm.TaskStatus{State: "running"}, swarm.TaskStatus{State: "running"}, false},
		{swarm.TaskStatus{State: "running"}, swarm.TaskStatus{State: "running", Message: "x"}, true},
		{swarm.TaskStatus{State: "running"}, swarm.TaskStatus{State: "failed"}, true},
		{swarm.TaskStatus{State: "complete"}, swarm.TaskStatus{State: "shutdown"}, false},
		{swarm.TaskStatus{State: "orphaned"}, swarm.TaskStatus{State: "running"}, false},
		{swarm.TaskStatus{State: "failed"}, swarm.TaskStatus{State: "failed", ContainerStatus: &swarm.ContainerStatus{ExitCode: 1}}, true},
		{swarm.TaskStatus{State: "running"}, swarm.TaskStatus{State: "bogus"}, false},
	} {
		if got := advances(c.old, c.next); got != c.want {
			t.Errorf("%+v -> %+v: got %v", c.old, c.next, got)
		}
	}
}

// After a power cut a node finds the exits of tasks that were replaced meanwhile.
func TestTasksThatWereToEndDoNotFail(t *testing.T) {
	w := newWorld(t)
	d := w.start(Config{})
	for i, c := range []struct {
		desired, reported, want swarm.TaskState
	}{
		{"running", "failed", "failed"},
		{"shutdown", "failed", "shutdown"},
		{"shutdown", "rejected", "shutdown"},
		{"shutdown", "complete", "complete"},
		{"remove", "failed", "shutdown"},
	} {
		id := fmt.Sprint("lost", i)
		w.add(task(id, "web", "n1", 9, "running"))
		w.set(id, "running", c.desired)
		update := protocol.StatusUpdate{TaskID: id, Status: swarm.TaskStatus{State: c.reported, Err: "task: non-zero exit (255)"}}
		if err := d.submit(t.Context(), report{node: "n1", updates: []protocol.StatusUpdate{update}}); err != nil {
			t.Fatal(err)
		}
		var got swarm.TaskStatus
		w.store.View(func(v *store.View) { got = v.Task(id).Status })
		if got.State != c.want || got.Err != update.Status.Err {
			t.Errorf("desired %s, reported %s: %s, %q", c.desired, c.reported, got.State, got.Err)
		}
	}
}

func TestNetworksOfNodes(t *testing.T) {
	w := newWorld(t)
	for _, t := range []*store.Task{
		task("w1", "web", "n1", 11, swarm.TaskStateRunning), task("w2", "web", "n2", 12, swarm.TaskStateStarting),
	} {
		t.Status.ContainerStatus = &swarm.ContainerStatus{ContainerID: "container-" + t.ID}
		w.add(t)
	}
	w.add(task("d1", "db", "n1", 13, swarm.TaskStateRunning))
	w.add(task("old", "db", "n3", 14, swarm.TaskStateFailed))

	addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	web1 := protocol.Endpoint{
		TaskID: "w1", ServiceID: "web", NodeID: "n1", Slot: 11, Name: "web.11.w1",
		Hostname: "h-web", ContainerID: "container-w1", Addrs: addr("10.255.0.11"), State: protocol.EndpointServing,
	}
	web2 := protocol.Endpoint{
		TaskID: "w2", ServiceID: "web", NodeID: "n2", Slot: 12, Name: "web.12.w2",
		Hostname: "h-web", Addrs: addr("10.255.0.12"), State: protocol.EndpointStarting,
	}
	db1 := protocol.Endpoint{
		TaskID: "d1", ServiceID: "db", NodeID: "n1", Slot: 13, Name: "db.13.d1",
		Hostname: "h-db", Addrs: addr("10.255.0.13"), State: protocol.EndpointServing,
	}
	webOnMesh := protocol.Service{ID: "web", Name: "web", VIPs: addr("10.255.0.2"), Ports: []swarm.PortConfig{
		{Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: swarm.PortConfigPublishModeIngress},
	}}
	mesh := protocol.Network{
		ID: "mesh", Name: "mesh-net", Revision: w.index(), VNI: 4096, Ingress: true,
		Subnets: []protocol.Subnet{{
			Prefix: netip.MustParsePrefix("10.255.0.0/16"), Gateway: netip.MustParseAddr("10.255.0.1"),
		}},
	}
	on := func(e protocol.Endpoint, a string) protocol.Endpoint { e.Addrs = addr(a); return e }
	user := protocol.Network{
		ID: "user", Name: "user-net", Revision: w.index(), VNI: 4097,
		Subnets: []protocol.Subnet{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1")}},
		Services: []protocol.Service{
			{ID: "db", Name: "db", Aliases: []string{"db-alias"}},
			{ID: "web", Name: "web", VIPs: addr("10.0.0.2"), Aliases: []string{"web-alias"}, Exposed: []swarm.PortConfig{
				webOnMesh.Ports[0], {Protocol: "tcp", TargetPort: 81, PublishedPort: 8081, PublishMode: swarm.PortConfigPublishModeHost},
			}},
		},
		Endpoints: []protocol.Endpoint{on(db1, "10.0.0.13"), on(web1, "10.0.0.11"), on(web2, "10.0.0.12")},
	}
	with := func(services []protocol.Service, endpoints ...protocol.Endpoint) protocol.Network {
		n := mesh
		n.Services, n.Endpoints = services, endpoints
		return n
	}
	dbOnMesh := protocol.Service{ID: "db", Name: "db"}
	for node, want := range map[string][]protocol.Network{
		"n1": {with([]protocol.Service{dbOnMesh, webOnMesh}, db1, web1, web2), user},
		"n2": {with([]protocol.Service{webOnMesh}, web1, web2), user},
		"n3": {with([]protocol.Service{webOnMesh}, web1, web2)},
	} {
		w.store.View(func(v *store.View) {
			if diff := cmp.Diff(want, Networks(v, node), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
				cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", node, diff)
			}
		})
	}
}

// The others answer for the name that the task's container has.
func TestHostNamesWithPlaceholders(t *testing.T) {
	for given, want := range map[string]string{
		"db": "db", "{{.Node.Hostname}}-{{.Task.Slot}}": "host1-2",
		"{{.Service.Name}}.{{.Task.ID}}.{{.Node.ID}}": "web.w9.n1", "{{.Task.Name}}": "web.2.w9",
		"{{.Nothing}}": "", `{{printf "%9999999999d" 1}}`: "", "{{": "",
	} {
		w := newWorld(t)
		w.change(func(tx *store.Tx) {
			spec := swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Hostname: given}}
			tx.Create(&store.Spec{ServiceID: "web", Number: 2, Template: spec})
			n := *tx.Node("n1")
			n.Description.Hostname = "host1"
			tx.Update(&n)
			task := &store.Task{SpecVersion: 2}
			task.ID, task.ServiceID, task.NodeID, task.Slot = "w9", "web", "n1", 2
			tx.Create(task)
		})
		w.store.View(func(v *store.View) {
			if got := hostname(v, v.Task("w9")); got != want {
				t.Errorf("%q gives %q, want %q", given, got, want)
			}
		})
	}
}

func TestAssignmentCarriesWhatTheTaskUsesOnly(t *testing.T) {
	w := newWorld(t)
	w.add(task("d1", "db", "n1", 13, swarm.TaskStateAssigned))
	w.store.View(func(v *store.View) {
		a := assign(v, v.Task("d1"))
		if len(a.Secrets) != 1 || a.Secrets[0].ID != "pw" {
			t.Errorf("secrets: %+v", a.Secrets)
		}
		if a.ServiceName != "db" || a.RegistryAuth != "auth" || a.Task.Spec.ContainerSpec.Hostname != "h-db" {
			t.Errorf("assignment: %+v", a)
		}
		if got := a.Task.NetworksAttachments[0].Network.Spec.Name; got == "" {
			t.Error("the attachment names no network")
		}
	})
}

// A port in mode host is the one that the scheduler gave to this task.
func TestAssignmentHasTheTasksOwnPorts(t *testing.T) {
	w := newWorld(t)
	host := func(port uint32) swarm.PortConfig {
		return swarm.PortConfig{Protocol: "tcp", TargetPort: 80, PublishedPort: port, PublishMode: swarm.PortConfigPublishModeHost}
	}
	mesh := swarm.PortConfig{Protocol: "tcp", TargetPort: 81, PublishedPort: 8081, PublishMode: swarm.PortConfigPublishModeIngress}
	given := task("d1", "db", "n1", 13, swarm.TaskStateAssigned)
	given.Status.PortStatus.Ports = []swarm.PortConfig{host(32767)}
	w.add(given)
	w.add(task("d2", "db", "n1", 14, swarm.TaskStateAssigned))
	w.change(func(tx *store.Tx) {
		s := *tx.Service("db")
		s.Endpoint.Ports = []swarm.PortConfig{host(0), mesh}
		tx.Update(&s)
	})
	w.store.View(func(v *store.View) {
		if got, want := assign(v, v.Task("d1")).Endpoint.Ports, []swarm.PortConfig{mesh, host(32767)}; !reflect.DeepEqual(got, want) {
			t.Errorf("ports %v, want %v", got, want)
		}
		if got, want := assign(v, v.Task("d2")).Endpoint.Ports, []swarm.PortConfig{host(0), mesh}; !reflect.DeepEqual(got, want) {
			t.Errorf("of a task that was given none: %v, want %v", got, want)
		}
		if v.Service("db").Endpoint.Ports[0].PublishedPort != 0 {
			t.Error("the service was changed")
		}
	})
}

func changeService(tx *store.Tx, rng *rand.Rand, id string, step int) {
	old := tx.Service(id)
	if old == nil {
		tx.Create(service(id, "user"))
		return
	}
	s := *old
	switch rng.IntN(4) {
	case 0:
		s.Spec.Labels = map[string]string{"step": strconv.Itoa(step)}
	case 1:
		target := []string{"user", "user-net", "elsewhere"}[rng.IntN(3)]
		s.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: target}}
	case 2:
		s.Endpoint.Ports = nil
		if rng.IntN(2) == 0 {
			s.Endpoint.Ports = []swarm.PortConfig{{TargetPort: 80, PublishedPort: uint32(1 + rng.IntN(1000))}}
		}
	case 3:
		tx.Remove(old)
		return
	}
	tx.Update(&s)
}

func changeSomething(tx *store.Tx, rng *rand.Rand, step int) {
	states := []swarm.TaskState{"pending", "assigned", "starting", "running", "shutdown", "failed"}
	desired := []swarm.TaskState{"running", "shutdown", "remove"}
	if rng.IntN(10) == 0 {
		changeService(tx, rng, []string{"web", "db"}[rng.IntN(2)], step)
		return
	}
	id := []string{"a", "b", "c", "d", "e"}[rng.IntN(5)]
	old := tx.Task(id)
	switch {
	case old == nil:
		service := []string{"web", "db"}[rng.IntN(2)]
		tx.Create(task(id, service, []string{"n1", "n2"}[rng.IntN(2)], byte(20+rng.IntN(50)), "pending"))
	case rng.IntN(10) == 0:
		tx.Remove(old)
	default:
		next := *old
		next.Status.State, next.DesiredState = states[rng.IntN(len(states))], desired[rng.IntN(len(desired))]
		tx.Update(&next)
	}
}

// TestTouchedMissesNothing plays random changes and compares what nodes are told,
// which follows only from what commits touched, with networks built from scratch.
// Nodes look now and then, and begin anew now and then.
func TestTouchedMissesNothing(t *testing.T) {
	w := newWorld(t)
	c := newCache(time.Now)
	watcher := w.store.Watch(func(v *store.View) { c.reset(v.Index(), v.Services()) })
	defer watcher.Close()
	rng := newRand(t)
	nodes := []string{"n1", "n2", "n3"}
	sessions, replicas := map[string]*session{}, map[string]*replica{}
	deltas, snapshots := 0, 0
	for step := range 3000 {
		w.change(func(tx *store.Tx) { changeSomething(tx, rng, step) })
		commit := <-watcher.C
		touch := newTouched()
		w.store.View(func(v *store.View) { touch.spread(v, commit) })
		c.apply(commit, touch)
		for _, id := range nodes {
			if s := sessions[id]; s != nil {
				s.note(commit.Index, touch)
			}
			if sessions[id] == nil || rng.IntN(100) == 0 {
				sessions[id], replicas[id] = newSession(id, c.processed(), nil), newReplica()
			}
			if rng.IntN(3) == 0 {
				continue
			}
			s, r := sessions[id], replicas[id]
			w.store.View(func(v *store.View) {
				if m := s.next(v, c); m != nil {
					r.apply(t, m)
					for _, change := range m.Networks {
						if change.From == 0 {
							snapshots++
						} else {
							deltas++
						}
					}
				}
				if !agree(t, v, r, id) {
					t.Fatalf("step %d: node %s has\n%+v, want\n%+v", step, id, r.networks, oracles(v, id))
				}
			})
		}
	}
	if deltas < snapshots {
		t.Errorf("%d snapshots but %d deltas", snapshots, deltas)
	}
}
