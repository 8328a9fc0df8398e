package overlay

import "net/netip"

// State is the whole desired state of a node's overlay networks. It is a plain
// value: pass it again unchanged and nothing happens.
type State struct {
	// Local is this node's own underlay address; peers know us by it.
	Local netip.Addr
	// VXLANPort is the UDP port of the cluster's tunnels; 0 means Config's.
	VXLANPort uint16
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
)

// Peer is another node.
type Peer struct {
	ID        string
	Addr      netip.Addr
	Transport Transport
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
	// peer's. The mesh network has the tunnel in any case.
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
