package observe

import (
	"context"
	"net/netip"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ebpf"
	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/orchestrator/consensus"
	"github.com/meshd/meshd/orchestrator/dispatcher"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
)

// Sources are the parts of a node that can be asked.
type Sources struct {
	Overlay Overlay
	// DataPath says which driver carries packets, and why that.
	DataPath string
	Keeper   Keeper
	Balancer Balancer
	Resolver Resolver
	// View is what the managers said and how far the node got with it.
	View func() View
	// Sockets are those that processes of the node listen on; nil: not looked at.
	Sockets func() ([]Socket, error)
	// Overlap says which route of the node leads to a network's addresses; nil: not looked at.
	Overlap func(protocol.Network) error
	// Maps says how full the kernel's maps are that grow with the swarm; nil: not looked at.
	Maps func() ([]MapFill, error)
	// Member is the node's own part in the swarm.
	Member func() Member
}

// MapFill is how full one of a part's maps in the kernel is: Entries of at most Capacity.
type MapFill struct {
	Part, Map         string
	Entries, Capacity int
}

// Overlay is what is asked of the overlay networks.
type Overlay interface {
	// Drops and Repairs count by reason and by kind.
	Drops() (map[string]uint64, error)
	Repairs() map[string]uint64
	// Transports counts the peers by how packets to them travel.
	Transports() map[overlay.Transport]int
	// EncryptedPeers says how it stands with the nodes that encrypted networks lead to.
	EncryptedPeers() []overlay.EncryptedPeer
	// Differences compares the kernel with a state.
	Differences(overlay.State) ([]overlay.Difference, error)
	// Path is where the kernel sends packets to an address on a network.
	Path(vni uint32, to netip.Addr) (overlay.Path, error)
	// TunnelLimit is the largest packet in bytes that reaches other nodes; zero: any.
	TunnelLimit() int
	// Attachments are the containers' interfaces that there are.
	Attachments() []overlay.Attachment
}

// Keeper is what is asked of who keeps the load balancer as it should be.
type Keeper interface {
	Repairs() map[string]uint64
	Differences(ipvs.State) ([]ipvs.Difference, error)
	// Ejected are the backends that get no new connections for a while; Ejections
	// counts how often that happened.
	Ejected() []ipvs.Ejected
	Ejections() map[ipvs.EjectionCount]uint64
}

// Balancer is what is asked of the load balancer itself.
type Balancer interface {
	Stats() (ebpf.Stats, error)
	Flows() ([]ebpf.Flow, error)
	// Held is what its maps hold.
	Held() (ipvs.State, error)
}

// Resolver is what is asked of the resolver.
type Resolver interface {
	Stats() dns.Stats
	Lookup(from netip.Addr, name string) dns.Answer
	Differences(dns.State) []dns.Difference
	// Probe returns the addresses that do not answer over the network.
	Probe(ctx context.Context, timeout time.Duration) map[netip.AddrPort]error
}

// View is what the managers told a node, and how far it got.
type View struct {
	// Self is this node's ID; empty outside of a swarm. Told: a manager has spoken.
	Self string
	Told bool

	Nodes    []protocol.Node
	Networks []protocol.Network
	// Tasks are those assigned to this node that have not ended.
	Tasks []protocol.Assignment
	// Held is the revision of each network that the kernel holds, by network ID.
	Held map[string]uint64
	// Behind is since when the kernel holds less than was told, by network ID.
	Behind map[string]time.Time
	// Desired is what the newest view means for each part.
	Desired plan.Output
}

// Member is a node's part in the swarm. The zero value is that of a node outside.
type Member struct {
	// CertificateExpires is zero for a node without.
	CertificateExpires time.Time
	Tasks              map[swarm.TaskState]int
	// Raft is nil on workers.
	Raft *consensus.Stats
	// Watched are the nodes that have their sessions with this manager, Lags what
	// holds them back.
	Watched []string
	Lags    []dispatcher.Lag
}

// network finds a network by its VXLAN identifier.
func (v View) network(vni uint32) (protocol.Network, bool) {
	for _, n := range v.Networks {
		if n.VNI == vni {
			return n, true
		}
	}
	return protocol.Network{}, false
}

// networkCalled is a network as people call it; its ID if this node has no part in it.
func (v View) networkCalled(id string) string {
	for _, n := range v.Networks {
		if n.ID == id {
			return n.Name
		}
	}
	return id
}

// node finds a node by its ID.
func (v View) node(id string) protocol.Node {
	for _, n := range v.Nodes {
		if n.ID == id {
			return n
		}
	}
	return protocol.Node{ID: id}
}

// nodeName is a node as people call it.
func nodeName(n protocol.Node) string {
	if n.Hostname != "" {
		return n.Hostname
	}
	return n.ID
}

// endpoint finds who has an address on a network.
func (v View) endpoint(vni uint32, addr netip.Addr) (protocol.Endpoint, bool) {
	n, _ := v.network(vni)
	for _, e := range n.Endpoints {
		for _, a := range e.Addrs {
			if a == addr {
				return e, true
			}
		}
	}
	return protocol.Endpoint{}, false
}
