package plan

import (
	"github.com/meshd/meshd/ipvs"
)

// clients names this node's tasks by their addresses. Those without a network of
// the cluster (host, none, bridge) see no VIPs.
func clients(in Input) []ipvs.Client {
	vni := make(map[string]uint32, len(in.Networks))
	for _, n := range in.Networks {
		vni[n.ID] = n.VNI
	}
	var out []ipvs.Client
	for _, t := range in.Tasks {
		var c ipvs.Client
		for _, at := range t.Task.NetworksAttachments {
			id, ok := vni[at.Network.ID]
			if !ok {
				continue
			}
			for _, p := range at.Addresses {
				c.Addrs = append(c.Addrs, ipvs.ClientAddr{VNI: id, Addr: p.Addr()})
			}
		}
		if len(c.Addrs) > 0 {
			out = append(out, c)
		}
	}
	return out
}
