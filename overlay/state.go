package overlay

import (
	"net/netip"

	"github.com/meshd/meshd/overlay/wireguard"
)

// State is the whole desired state of a node's overlay networks. It is a plain
// value: pass it again unchanged and nothing happens.
type State struct {
	// ID is this node's, as peers have it.
	ID string
	// Local is this node's own underlay address; peers know us by it.
	Local netip.Addr
	// VXLANPort is the UDP port of the cluster's tunnels; 0 means Config's.
	VXLANPort uint16
	// KeyEpoch counts how often the cluster's nodes have changed their WireGuard keys.
	// A node has a key of this epoch, and until all peers use that one the last before.
	KeyEpoch uint64
	// Peers are the other nodes. Tunnelled packets from anyone else are dropped.
	Peers []Peer
	// Networks are those with a container on this node, and the mesh network.
	Networks []Network
	// Endpoints are the containers on other nodes, on these networks. Those on
	// this node are known from their attachments.
	Endpoints []Endpoint
}

// Transport is how packets travel to a peer.
type Transport string

// The transports.
const (
	// TransportDefault is the tunnel for a peer, and the peer's for a network.
	TransportDefault Transport = ""
	// TransportVXLAN is the tunnel.
	TransportVXLAN Transport = "vxlan"
	// TransportDirect says that the peer takes packets without encapsulation. They
	// are sent so if Config.Direct, the peer is on a link of this node's, and frames
	// like them are seen to arrive; else through the tunnel. See DESIGN.md.
	TransportDirect Transport = "direct"
	// TransportWireGuard is of networks only: their packets are encrypted, to every
	// peer, or dropped. They are not tunnelled, but on the mesh network, where the
	// tunnel is inside.
	TransportWireGuard Transport = "wireguard"
)

// Peer is another node.
type Peer struct {
	ID        string
	Addr      netip.Addr
	Transport Transport
	// Keys are those that the peer takes encrypted packets with, newest first.
	Keys []wireguard.PublicKey
	// Down says that the peer was given up: nobody waits for it.
	Down bool
}

// Network is one overlay network.
type Network struct {
	ID   string
	Name string
	// VNI is the VXLAN network identifier (RFC 7348), 1 to 2^24-1.
	VNI      uint32
	Subnets  []netip.Prefix
	Gateways []netip.Addr
	// Transport is that of the network's packets to any peer; TransportDefault: the
	// peer's. The mesh network has the tunnel in any case, encrypted or not.
	Transport Transport
	// Mesh marks the network that carries every container's default route and the
	// routing mesh. Its containers reach their node, the world beyond it and
	// nobody else on it.
	Mesh bool
	// Internal networks have no way out.
	Internal bool
}

// Endpoint is a container on another node.
type Endpoint struct {
	VNI  uint32
	Addr netip.Addr
	// Node is the underlay address of the node that has it.
	Node netip.Addr
}

// Attachment is a container's interface on this node.
type Attachment struct {
	// ID names the interface; the engine's endpoint ID.
	ID        string
	NetworkID string
	VNI       uint32
	Addrs     []netip.Prefix
	MAC       string
	// TaskID is empty for containers started by hand.
	TaskID string
	Mesh   bool
}
