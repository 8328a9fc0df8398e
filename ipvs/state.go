package ipvs

import (
	"net/netip"
	"time"
)

// State is the whole desired state of a node's load balancers.
type State struct {
	Services []Service
	// NodeAddrs are the addresses of this node that published ports answer on.
	NodeAddrs []netip.Addr
	// MeshVNI is the network that published ports reach their tasks through.
	MeshVNI uint32
	// MeshAddr is the IPv4 address that the node has on that network. Where it has no
	// other, its processes' connections to 127.0.0.1 come from it. Invalid: none.
	MeshAddr netip.Addr
	// TunnelAddr is the one of NodeAddrs that other nodes send tunnelled packets to,
	// and get them from.
	TunnelAddr netip.Addr
	// TunnelLimit is the largest packet, in bytes, that reaches tasks on other nodes;
	// who sends a longer one to a published port is told so. Zero: longer ones travel
	// in parts.
	TunnelLimit int
	// Clients are the containers of this node. One that is not named here is served
	// as well; being named allows a Balancer to lead its sockets instead of its packets.
	Clients []Client
}

// Client is a container: its addresses, on all networks whose VIPs it sees. No
// two containers share one.
type Client struct {
	Addrs []ClientAddr
}

// ClientAddr is an address of a container on a network.
type ClientAddr struct {
	VNI  uint32
	Addr netip.Addr
}

// Protocol is an IP protocol number (IANA); zero means any.
type Protocol uint8

// The protocols that can be balanced.
const (
	AnyProtocol Protocol = 0
	TCP         Protocol = 6
	UDP         Protocol = 17
)

// Key identifies a service.
type Key struct {
	// VNI is the network on which the VIP is seen; for published ports the mesh's.
	VNI uint32
	// VIP is the virtual address. Of published ports, the zero Addr means every IPv4
	// address of the node, netip.IPv6Unspecified() every IPv6 one, and any other one
	// address alone; 127.0.0.1 and ::1 mean the processes of the node, whatever address of
	// its IP version they call. Those that call ::1 are led by IPv4 where IPv6 is not there.
	VIP netip.Addr
	// Port is zero for VIPs, which pass every port through.
	Port     uint16
	Protocol Protocol
}

// Service spreads the connections to one key over backends.
type Service struct {
	Key
	// Name is for people: metrics and traces.
	Name     string
	Backends []Backend
	// Algorithm chooses for new connections; empty means Random2.
	Algorithm Algorithm
	// Affinity is how long after a client's last new connection its next one goes to
	// the same backend, in whole seconds; zero: not at all. Clients are told apart by
	// their addresses.
	Affinity time.Duration
	// PreferLocal leads new connections to backends on this node as long as one serves.
	PreferLocal bool
	// LocalOnly, of a published port, leads new connections to backends on this node
	// and nowhere else: without one the node refuses them.
	LocalOnly bool
	// DirectReturn, of a published port, lets tasks' nodes answer clients themselves, in
	// the name of the node that a connection entered by, where their links allow it.
	DirectReturn bool
	// Ejection says when a backend that fails gets no new connections for a while;
	// the zero value: never.
	Ejection Ejection
}

// Ejection is when a backend is ejected: it failed so often in a row, as this node
// saw, while another backend of the service did not. Durations are whole seconds.
type Ejection struct {
	// After so many failures without a success between, all Within so long.
	After  int
	Within time.Duration
	// First is for how long, when it is the first time; it doubles each time up to Longest.
	First, Longest time.Duration
}

// Algorithm is a way to choose a backend for a new connection.
type Algorithm string

// The algorithms. Connections are those of TCP that this node leads and that were
// not silent for long; weights count in all of them.
const (
	// Random2 takes two at random, and of them the one with fewer connections
	// (Mitzenmacher, "The Power of Two Choices").
	Random2 Algorithm = "random2"
	// RoundRobin takes one after the other.
	RoundRobin Algorithm = "rr"
	// LeastConn takes the one with the fewest connections.
	LeastConn Algorithm = "leastconn"
	// Maglev takes the one that belongs to the connection's addresses and ports: the
	// same on all nodes, and for nearly all connections still the same when backends
	// come or go (Eisenbud et al., NSDI 2016).
	Maglev Algorithm = "maglev"
)

// Algorithms lists all of them.
func Algorithms() []Algorithm { return []Algorithm{Random2, RoundRobin, LeastConn, Maglev} }

// Bounds of Backend.Weight, Service.Affinity and Service.Ejection.
const (
	MaxWeight   = 256
	MaxAffinity = 24 * time.Hour
	// Those of Ejection: After, and any of its durations.
	MaxFailures = 1000
	MaxEjection = 24 * time.Hour
)

// Backend is one task behind a service.
type Backend struct {
	Addr netip.Addr
	// Port is zero where the client's own port is kept.
	Port uint16
	// Draining backends get no new connections and keep those they have.
	Draining bool
	// Away backends drain, too, but their UDP flows move to others at once: they are
	// on a node that does not answer, and may be dead or hidden for a moment only.
	Away bool
	// Weight is the share of new connections, 1 to MaxWeight; zero means 1.
	Weight uint16
	// Local: on this node.
	Local bool
	// Ejected backends get no new connections as long as another one serves, and keep
	// those they have. [Keeper] says who is.
	Ejected bool
}

// Balancer makes the kernel balance what State asks for.
type Balancer interface {
	// Set replaces the desired state and returns when the kernel holds it, or with
	// what could not be done, as NetworkErrors where that concerns single networks; a
	// later Set with the same state tries again.
	Set(State) error
	// Close lets go of the kernel's objects without removing them: balancing goes
	// on without this process.
	Close() error
}

// NetworkError is an error that concerns one network only: the others are balanced as
// they should be.
type NetworkError struct {
	VNI uint32
	Err error
}

func (e *NetworkError) Error() string { return e.Err.Error() }

// Unwrap gives the error.
func (e *NetworkError) Unwrap() error { return e.Err }
