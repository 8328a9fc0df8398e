package api

import (
	"fmt"
	"slices"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// servicesOn is what a network's verbose inspection shows: each service with its
// running tasks. Containers of no service are under the name "", as in Docker.
func servicesOn(v *store.View, n *store.Network) map[string]network.ServiceInfo {
	out := map[string]network.ServiceInfo{}
	for _, t := range v.TasksOnNetwork(n.ID) {
		if t.Status.State != swarm.TaskStateRunning {
			continue
		}
		name, info := "", network.ServiceInfo{Ports: []string{}}
		if s := v.Service(t.ServiceID); s != nil {
			name, info = s.Spec.Name, serviceInfo(s, n)
		}
		if known, ok := out[name]; ok {
			info = known
		}
		task := network.Task{Name: taskName(v, t), EndpointID: t.ID, Info: map[string]string{"Host IP": hostOf(v, t)}}
		for _, a := range t.NetworksAttachments {
			if a.Network.ID == n.ID && len(a.Addresses) > 0 {
				task.EndpointIP = a.Addresses[0].Addr()
			}
		}
		info.Tasks = append(info.Tasks, task)
		out[name] = info
	}
	return out
}

func serviceInfo(s *store.Service, n *store.Network) network.ServiceInfo {
	info := network.ServiceInfo{Ports: []string{}}
	for _, vip := range s.Endpoint.VirtualIPs {
		if vip.NetworkID == n.ID && !info.VIP.IsValid() {
			info.VIP = vip.Addr.Addr()
		}
	}
	for _, p := range s.Endpoint.Ports {
		info.Ports = append(info.Ports, fmt.Sprintf("Target: %d, Publish: %d", p.TargetPort, p.PublishedPort))
	}
	return info
}

func hostOf(v *store.View, t *store.Task) string {
	if n := v.Node(t.NodeID); n != nil {
		return n.DataAddr.String()
	}
	return ""
}

// peersOn are the nodes that have a part in a network.
func peersOn(v *store.View, n *store.Network) []network.PeerInfo {
	var out []network.PeerInfo
	seen := map[string]bool{}
	for _, t := range v.TasksOnNetwork(n.ID) {
		node := v.Node(t.NodeID)
		if node == nil || seen[node.ID] || ended(t.Status.State) {
			continue
		}
		seen[node.ID] = true
		out = append(out, network.PeerInfo{Name: node.ID, IP: node.DataAddr})
	}
	slices.SortFunc(out, func(a, b network.PeerInfo) int { return a.IP.Compare(b.IP) })
	return out
}
