package dispatcher

import (
	"bytes"
	"reflect"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// touched is what a commit changed for nodes. It may say too much, never too little.
type touched struct {
	// nodes are the tasks that changed, by the nodes that have or had them.
	nodes map[string][]string
	// networks, by ID or name, changed for everyone on them.
	networks map[string]bool
	// defined are the network objects that changed; false: gone.
	defined map[string]bool
	// tasks changed as endpoints: their services by network ID and task.
	tasks map[string]map[string]string
	// services changed; also networks that only their tasks are on show them.
	services map[string]bool
	// members are nodes that changed as others know them; keys: those of their gossip.
	members map[string]bool
	keys    bool
	// fed are the networks whose feeds have something to look at.
	fed map[string]bool
	// serving are tasks that began to serve.
	serving []string
	// left are tasks that stopped being offered to clients.
	left []string
	// forgotten are tasks that are gone from the store.
	forgotten []string
}

func newTouched() *touched {
	return &touched{
		nodes: map[string][]string{}, networks: map[string]bool{}, defined: map[string]bool{},
		tasks: map[string]map[string]string{}, services: map[string]bool{}, members: map[string]bool{}, fed: map[string]bool{},
	}
}

// add takes in one event.
func (c *touched) add(e store.Event) {
	switch e.Object().Kind() {
	case store.KindTask:
		oldTask, _ := e.Old.(*store.Task)
		newTask, _ := e.New.(*store.Task)
		c.task(oldTask, newTask)
	case store.KindService:
		oldService, _ := e.Old.(*store.Service)
		newService, _ := e.New.(*store.Service)
		c.service(oldService, newService)
	case store.KindNetwork:
		id := e.Object().Key()
		c.networks[id], c.defined[id] = true, e.New != nil
	case store.KindNode:
		oldNode, _ := e.Old.(*store.Node)
		newNode, _ := e.New.(*store.Node)
		if newNode == nil || oldNode == nil || !sameMember(oldNode, newNode) {
			c.members[e.Object().Key()] = true
		}
	case store.KindCluster:
		oldCluster, _ := e.Old.(*store.Cluster)
		newCluster, _ := e.New.(*store.Cluster)
		c.keys = c.keys || epochOf(oldCluster) != epochOf(newCluster) || !sameKeys(gossipKeys(oldCluster), gossipKeys(newCluster)) ||
			!reflect.DeepEqual(trust(oldCluster), trust(newCluster))
	case store.KindSpec, store.KindSecret, store.KindConfig:
	}
}

func (c *touched) task(old, next *store.Task) {
	was, is := offerOf(old), offerOf(next)
	if (was == protocol.EndpointStarting || was == protocol.EndpointServing) &&
		is != protocol.EndpointStarting && is != protocol.EndpointServing && next != nil {
		c.left = append(c.left, next.ID)
	}
	if is == protocol.EndpointServing && was != is {
		c.serving = append(c.serving, next.ID)
	}
	if next == nil {
		c.forgotten = append(c.forgotten, old.ID)
	}
	moved := was != is || !sameAttachments(old, next) || !sameSpec(old, next)
	for _, t := range []*store.Task{old, next} {
		if t == nil {
			continue
		}
		if t.NodeID != "" {
			c.nodes[t.NodeID] = append(c.nodes[t.NodeID], t.ID)
		}
		if !moved || was == "" && is == "" {
			continue
		}
		for _, a := range t.NetworksAttachments {
			c.networks[a.Network.ID] = true
			if c.tasks[a.Network.ID] == nil {
				c.tasks[a.Network.ID] = map[string]string{}
			}
			c.tasks[a.Network.ID][t.ID] = t.ServiceID
		}
	}
}

// spread adds the tasks of services that a commit changed: names and labels are part
// of assignments.
func (c *touched) spread(v *store.View, commit store.Commit) {
	for _, e := range commit.Events {
		old, was := e.Old.(*store.Service)
		next, is := e.New.(*store.Service)
		if !was && !is || was && is && sameService(old, next) {
			continue
		}
		for _, t := range v.TasksOfService(e.Object().Key()) {
			c.nodes[t.NodeID] = append(c.nodes[t.NodeID], t.ID)
		}
	}
}

// mark tells a feed what it has to look at again.
func (c *touched) mark(f *feed, index uint64, now time.Time, publishes func(serviceID string) bool) {
	tasks, services := map[string]bool{}, map[string]bool{}
	for id, service := range c.tasks[f.id] {
		if !f.mesh || publishes(service) {
			tasks[id] = true
		}
	}
	for id := range c.services {
		if f.knows(id) || c.networks[f.id] || c.networks[f.name] || f.mesh && publishes(id) {
			services[id] = true
		}
	}
	if len(tasks)+len(services) > 0 || c.defined[f.id] {
		c.fed[f.id] = true
		f.mark(index, now, tasks, services)
	}
}

func offerOf(t *store.Task) protocol.EndpointState {
	if t == nil {
		return ""
	}
	return offer(t)
}

func sameAttachments(a, b *store.Task) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.NodeID == b.NodeID && a.Slot == b.Slot && slices.EqualFunc(a.NetworksAttachments, b.NetworksAttachments,
		func(x, y swarm.NetworkAttachment) bool {
			return x.Network.ID == y.Network.ID && slices.Equal(x.Addresses, y.Addresses)
		})
}

// sameSpec compares what networks show of attachments: names and container.
func sameSpec(a, b *store.Task) bool {
	if a == nil || b == nil {
		return a == b
	}
	return !a.Attached() && !b.Attached() || a.Name == b.Name && reflect.DeepEqual(a.Spec, b.Spec)
}

func (c *touched) service(old, next *store.Service) {
	if old != nil && next != nil && sameService(old, next) {
		return
	}
	for _, s := range []*store.Service{old, next} {
		if s == nil {
			continue
		}
		c.services[s.ID] = true
		for _, vip := range s.Endpoint.VirtualIPs {
			c.networks[vip.NetworkID] = true
		}
		for _, a := range s.Spec.TaskTemplate.Networks {
			c.networks[a.Target] = true
		}
	}
}

// sameService compares what networks and assignments show of a service.
func sameService(a, b *store.Service) bool {
	return reflect.DeepEqual(a.Spec.Annotations, b.Spec.Annotations) &&
		reflect.DeepEqual(a.Endpoint, b.Endpoint) &&
		reflect.DeepEqual(a.Spec.EndpointSpec, b.Spec.EndpointSpec) &&
		reflect.DeepEqual(a.Spec.TaskTemplate.Networks, b.Spec.TaskTemplate.Networks)
}

// sameMember compares what sessions show of a node.
func sameMember(a, b *store.Node) bool {
	return reflect.DeepEqual(member(a), member(b)) && peerAddr(a) == peerAddr(b)
}

func member(n *store.Node) protocol.Node {
	return protocol.Node{
		Role: n.Spec.Role,
		Keys: keysOf(n),
		ID:   n.ID, Hostname: n.Description.Hostname, DataAddr: n.DataAddr, Direct: n.Direct, Labels: n.Spec.Labels,
		Stopping: n.Stopping, Down: n.Status.State == swarm.NodeStateDown,
	}
}

// peerAddr is where a manager's control port is, "" for other nodes.
func peerAddr(n *store.Node) string {
	if n.ManagerStatus == nil {
		return ""
	}
	return n.ManagerStatus.Addr
}

// gossipKeys are the keys that nodes should have, the one in use first.
func gossipKeys(c *store.Cluster) [][]byte {
	if c == nil {
		return nil
	}
	var out [][]byte
	for _, k := range c.GossipKeys {
		out = append(out, k.Key)
	}
	used := max(slices.IndexFunc(c.GossipKeys, func(k store.GossipKey) bool { return k.InUse }), 0)
	for i := used; i > 0; i-- {
		out[i], out[i-1] = out[i-1], out[i]
	}
	return out
}

// trust is what the nodes' certificates should be like; nil before the cluster is known.
func trust(c *store.Cluster) *protocol.Trust {
	if c == nil {
		return nil
	}
	return &protocol.Trust{Root: c.RootCert, Issuer: c.TLSInfo.CertIssuerPublicKey}
}

func sameKeys(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }
