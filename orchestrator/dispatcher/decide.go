package dispatcher

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/placeholder"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// terminal says that a task in this state has ended.
func terminal(s swarm.TaskState) bool { return tasklife.Before(swarm.TaskStateRunning, s) }

// live says that a task has, or is about to get, a container on its node.
func live(t *store.Task) bool {
	return t.NodeID != "" && tasklife.Rank(t.Status.State) >= tasklife.Rank(swarm.TaskStateAssigned) && !terminal(t.Status.State)
}

// assigned says that the task's node should know of it. A task whose removal is
// wanted stays until it has ended, so that its node can drain and stop it; ended
// ones stay for their logs until the store forgets them.
func assigned(t *store.Task) bool {
	if tasklife.Rank(t.Status.State) < tasklife.Rank(swarm.TaskStateAssigned) {
		return false
	}
	return t.DesiredState != swarm.TaskStateRemove || !terminal(t.Status.State)
}

// offer is where a task is in its life as an endpoint; "" when it is none.
func offer(t *store.Task) protocol.EndpointState {
	running := t.Status.State == swarm.TaskStateRunning
	switch {
	case !live(t):
		return ""
	case !tasklife.Wanted(t):
		if running {
			return protocol.EndpointDraining
		}
		return ""
	case running:
		return protocol.EndpointServing
	}
	return protocol.EndpointStarting
}

// advances says whether a reported status is news. States move forward only, and
// an end is final: it is history, whatever is reported later.
func advances(old, next swarm.TaskStatus) bool {
	from, to := tasklife.Rank(old.State), tasklife.Rank(next.State)
	if to > from {
		return !terminal(old.State)
	}
	return to == from && to > 0 && !sameStatus(old, next)
}

func sameStatus(a, b swarm.TaskStatus) bool {
	if (a.ContainerStatus == nil) != (b.ContainerStatus == nil) {
		return false
	}
	if a.ContainerStatus != nil && *a.ContainerStatus != *b.ContainerStatus {
		return false
	}
	return a.Message == b.Message && a.Err == b.Err && slices.Equal(a.PortStatus.Ports, b.PortStatus.Ports)
}

// published lists the ports that the service wants open on every node.
func published(s *store.Service) []swarm.PortConfig {
	var out []swarm.PortConfig
	for _, p := range s.Endpoint.Ports {
		if p.PublishMode != swarm.PortConfigPublishModeHost && p.PublishedPort != 0 {
			out = append(out, p)
		}
	}
	return out
}

// ingress finds the network of the routing mesh; nil before the allocator made it ready.
func ingress(v *store.View) *store.Network {
	if n := v.Ingress(); n != nil && n.Ready {
		return n
	}
	return nil
}

// networksOf lists the networks that a node must know: the mesh network, first,
// and those it has live tasks on.
func networksOf(v *store.View, nodeID string) []*store.Network {
	var out []*store.Network
	seen := map[string]bool{}
	if n := ingress(v); n != nil {
		out, seen[n.ID] = append(out, n), true
	}
	for _, t := range v.TasksOnNode(nodeID) {
		if !live(t) {
			continue
		}
		for _, a := range t.NetworksAttachments {
			n := v.Network(a.Network.ID)
			if n == nil || !n.Ready || seen[n.ID] {
				continue
			}
			out, seen[n.ID] = append(out, n), true
		}
	}
	return out
}

// Networks is all that a node must know of its networks.
func Networks(v *store.View, nodeID string) []protocol.Network {
	var out []protocol.Network
	for _, change := range newSession(nodeID, v.Index(), nil).next(v, newCache(time.Now)).Networks {
		n, _ := change.On(protocol.Network{})
		out = append(out, n)
	}
	return out
}

// headOf is a network without its services and endpoints.
func headOf(n *store.Network) protocol.Network {
	return protocol.Network{
		ID: n.ID, Name: n.Spec.Name, VNI: n.VNI,
		Ingress: n.Spec.Ingress, Internal: n.Spec.Internal, Encrypted: n.Encrypted(),
		Subnets: subnets(n), Options: options(n),
	}
}

func subnets(n *store.Network) []protocol.Subnet {
	if n.IPAMOptions == nil {
		return nil
	}
	var out []protocol.Subnet
	for _, c := range n.IPAMOptions.Configs {
		out = append(out, protocol.Subnet{Prefix: c.Subnet, Gateway: c.Gateway})
	}
	return out
}

func options(n *store.Network) map[string]string {
	if len(n.DriverState.Options) > 0 {
		return n.DriverState.Options
	}
	if n.Spec.DriverConfiguration != nil {
		return n.Spec.DriverConfiguration.Options
	}
	return nil
}

// wants says that a service belongs to a network even while it has no task on it.
func wants(s *store.Service, n *store.Network) bool {
	for _, vip := range s.Endpoint.VirtualIPs {
		if vip.NetworkID == n.ID {
			return true
		}
	}
	for _, a := range s.Spec.TaskTemplate.Networks {
		if a.Target == n.ID || a.Target == n.Spec.Name {
			return true
		}
	}
	return false
}

func buildService(s *store.Service, n *store.Network) protocol.Service {
	out := protocol.Service{ID: s.ID, Name: s.Spec.Name, Labels: s.Spec.Labels}
	if n.Spec.Ingress {
		out.Ports = published(s)
	} else {
		out.Exposed = s.Endpoint.Ports
	}
	for _, vip := range s.Endpoint.VirtualIPs {
		if vip.NetworkID == n.ID && vip.Addr.IsValid() {
			out.VIPs = append(out.VIPs, vip.Addr.Addr())
		}
	}
	for _, a := range s.Spec.TaskTemplate.Networks {
		if a.Target == n.ID || a.Target == n.Spec.Name {
			out.Aliases = append(out.Aliases, a.Aliases...)
		}
	}
	return out
}

func buildEndpoint(v *store.View, t *store.Task, networkID string) (protocol.Endpoint, bool) {
	state := offer(t)
	addrs := addrsOn(t, networkID)
	if state == "" || len(addrs) == 0 {
		return protocol.Endpoint{}, false
	}
	return protocol.Endpoint{
		TaskID: t.ID, ServiceID: t.ServiceID, NodeID: t.NodeID, Slot: t.Slot,
		Name: containerName(v, t), Hostname: hostname(v, t),
		ContainerID: containerID(t, state), Addrs: addrs, State: state,
		Aliases: aliases(t, networkID),
	}, true
}

// aliases are further names of an attachment on a network; those of tasks are
// their service's.
func aliases(t *store.Task, networkID string) []string {
	for _, n := range t.Spec.Networks {
		if n.Target == networkID {
			return n.Aliases
		}
	}
	return nil
}

// containerID comes with the change to serving, so that it makes no news of its own.
func containerID(t *store.Task, state protocol.EndpointState) string {
	if state == protocol.EndpointStarting || t.Status.ContainerStatus == nil {
		return ""
	}
	return t.Status.ContainerStatus.ContainerID
}

func addrsOn(t *store.Task, networkID string) []netip.Addr {
	var out []netip.Addr
	for _, a := range t.NetworksAttachments {
		if a.Network.ID != networkID {
			continue
		}
		for _, p := range a.Addresses {
			out = append(out, p.Addr())
		}
	}
	return out
}

// containerName is service.slot.taskid, or service.nodeid.taskid for tasks
// without a slot (global services); an attachment has its container's own.
func containerName(v *store.View, t *store.Task) string {
	if t.Attached() {
		return t.Name
	}
	name := t.ServiceID
	if s := v.Service(t.ServiceID); s != nil {
		name = s.Spec.Name
	}
	if t.Slot == 0 {
		return name + "." + t.NodeID + "." + t.ID
	}
	return fmt.Sprintf("%s.%d.%s", name, t.Slot, t.ID)
}

// hostname is the one the user asked for. One that this cannot tell is left out: it
// refers to something that does not exist, or is a program rather than a name.
func hostname(v *store.View, t *store.Task) string {
	spec := v.Spec(t.ServiceID, t.SpecVersion)
	if spec == nil || spec.Template.ContainerSpec == nil {
		return ""
	}
	h := spec.Template.ContainerSpec.Hostname
	if !strings.Contains(h, "{{") {
		return h
	}
	h, err := placeholder.ExpandPlain(h, valuesOf(v, t))
	if err != nil {
		return ""
	}
	return h
}

// valuesOf are what placeholders of a task stand for, the same as on its node.
func valuesOf(v *store.View, t *store.Task) placeholder.Values {
	var out placeholder.Values
	out.Service.ID = t.ServiceID
	if s := v.Service(t.ServiceID); s != nil {
		out.Service.Name, out.Service.Labels = s.Spec.Name, s.Spec.Labels
	}
	out.Node.ID = t.NodeID
	if n := v.Node(t.NodeID); n != nil {
		out.Node.Hostname, out.Node.Platform = n.Hostname(), n.Description.Platform
	}
	out.Task.ID, out.Task.Name, out.Task.Slot = t.ID, containerName(v, t), t.NodeID
	if t.Slot != 0 {
		out.Task.Slot = strconv.Itoa(t.Slot)
	}
	return out
}
