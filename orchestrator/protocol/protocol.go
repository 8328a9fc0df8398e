// Package protocol holds the values that managers and agents exchange: plain
// data, and how a change of a network applies (change.go). They travel as JSON
// over the mutually authenticated control port (package remote).
//
// An agent opens a session with any manager (POST /v1/session) and gets a
// stream of Messages, first a full picture, then what changed. It reports task
// states (POST /v1/status), asks before it stops a task (POST /v1/drained), and pours
// a stream of Acks the other way, which network revisions its kernel holds
// (POST /v1/acks): one each second is its heartbeat.
package protocol

import (
	"net/netip"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// The paths of the dispatcher on the control port.
const (
	PathSession = "/v1/session"
	PathStatus  = "/v1/status"
	PathAcks    = "/v1/acks"
	// PathAck takes a single Ack, from agents of earlier versions.
	PathAck     = "/v1/ack"
	PathDrained = "/v1/drained"
	// See attach.go.
	PathAttach   = "/v1/attach"
	PathAttached = "/v1/attached"
)

// SessionRequest opens a session; the node is the one its certificate names.
type SessionRequest struct {
	Description swarm.NodeDescription
	// DataAddr is where peers send overlay traffic to.
	DataAddr netip.Addr
	// Direct says that the node takes overlay packets without encapsulation.
	Direct bool `json:",omitempty"`
	// Keys are those by which it takes encrypted packets, newest first.
	Keys []EncryptionKey `json:",omitempty"`
	// Stopping says that the machine is about to shut down: its tasks are to go on
	// elsewhere.
	Stopping bool `json:",omitempty"`
}

// Message is one step of a session. Unset fields say nothing.
type Message struct {
	// Heartbeat is sent when nothing else was for a while, and answered by an
	// acknowledgement at once. A stream silent for three such periods is dead; the agent
	// turns to another manager.
	Heartbeat time.Duration `json:",omitempty"`
	// Managers replaces the list of managers to turn to.
	Managers []swarm.Peer `json:",omitempty"`
	// Nodes are new or differ; with a full set of tasks they are all there are.
	Nodes []Node `json:",omitempty"`
	// NodesGone are the IDs of nodes that the cluster has no more.
	NodesGone []string `json:",omitempty"`
	// GossipKeys replaces the keys of the nodes' gossip: the first encrypts, all
	// decrypt.
	GossipKeys [][]byte `json:",omitempty"`
	// Encryption says how nodes encrypt what they send each other.
	Encryption *Encryption `json:",omitempty"`
	// Trust says what the node's certificate should be like.
	Trust *Trust `json:",omitempty"`
	// Tasks changes what this node runs.
	Tasks *Tasks `json:",omitempty"`
	// Networks brings networks to a newer revision. With a full set of tasks it
	// names all networks of the node, each from nothing.
	Networks []NetworkChange `json:",omitempty"`
	// NetworksGone are the IDs of networks that do not concern this node any more.
	NetworksGone []string `json:",omitempty"`
	// Tunnels invites the node to call managers that want to speak to it.
	Tunnels []Tunnel `json:",omitempty"`
}

// Tunnel invites a node to open a connection that a manager calls it through
// (package tunnel).
type Tunnel struct {
	// Number proves that the node was invited.
	Number string
	// Manager is the control address to dial, host:port.
	Manager string
}

// Trust is the root that a node should trust (PEM) and the public key (DER) of who
// should have signed its certificate.
type Trust struct {
	Root   []byte
	Issuer []byte
}

// Encryption is what nodes have to agree on to encrypt.
type Encryption struct {
	// Epoch is the one that every node is to have a key of.
	Epoch uint64
}

// EncryptionKey is one of a node's public WireGuard keys.
type EncryptionKey struct {
	Epoch uint64
	Key   []byte
	// Port is the UDP port of packets for it.
	Port uint16
}

// Node is a machine that takes part in the data plane.
type Node struct {
	ID       string
	Hostname string
	DataAddr netip.Addr
	// Direct says that it takes overlay packets without encapsulation.
	Direct bool `json:",omitempty"`
	// Keys are those by which it takes encrypted packets, newest first.
	Keys   []EncryptionKey   `json:",omitempty"`
	Labels map[string]string `json:",omitempty"`
	// Role is the one that the node should have.
	Role swarm.NodeRole `json:",omitempty"`
	// Stopping says that the node is shutting down in order, or has done so.
	Stopping bool `json:",omitempty"`
	// Down says that managers have given the node up.
	Down bool `json:",omitempty"`
}

// Tasks changes the set of tasks assigned to a node.
type Tasks struct {
	// Full says that Set is the whole set, not a change to it.
	Full bool `json:",omitempty"`
	// Index is the raft index of the state that this is a picture of. An agent
	// does not believe a full set that is older than what it was told before: the
	// manager lags. Zero says nothing.
	Index  uint64       `json:",omitempty"`
	Set    []Assignment `json:",omitempty"`
	Remove []string     `json:",omitempty"`
}

// Assignment is a task with all that running it needs.
type Assignment struct {
	// Task carries its spec and the network objects of its attachments.
	Task        swarm.Task
	ServiceName string
	// Beside is Attached's.
	Beside       bool `json:",omitempty"`
	Service      swarm.Annotations
	Endpoint     *swarm.EndpointSpec `json:",omitempty"`
	RegistryAuth string              `json:",omitempty"`
	Secrets      []swarm.Secret      `json:",omitempty"`
	Configs      []swarm.Config      `json:",omitempty"`
}

// EndpointState is where an endpoint is in its life.
type EndpointState string

// The states an endpoint goes through, forward only.
const (
	// EndpointStarting: it has its address, but may not be offered to clients.
	EndpointStarting EndpointState = "starting"
	// EndpointServing: running, and healthy if it has a health check.
	EndpointServing EndpointState = "serving"
	// EndpointDraining: no new connections; existing ones go on.
	EndpointDraining EndpointState = "draining"
)

// Network is the whole truth about one network at a revision (a raft index).
type Network struct {
	ID       string
	Name     string
	Revision uint64
	VNI      uint32
	Subnets  []Subnet
	// Ingress marks the network of the routing mesh, which every task has its
	// default route on.
	Ingress  bool `json:",omitempty"`
	Internal bool `json:",omitempty"`
	// Encrypted says that its packets never travel between nodes in the clear.
	Encrypted bool              `json:",omitempty"`
	Options   map[string]string `json:",omitempty"`

	// Services are ordered by ID, Endpoints by task.
	Services  []Service  `json:",omitempty"`
	Endpoints []Endpoint `json:",omitempty"`
}

// Subnet is an address range of a network.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
}

// Service is a service as seen on one network.
type Service struct {
	ID     string
	Name   string
	Labels map[string]string `json:",omitempty"`
	// VIPs are empty in endpoint mode dnsrr.
	VIPs []netip.Addr `json:",omitempty"`
	// Aliases are further names of the service on this network.
	Aliases []string `json:",omitempty"`
	// Ports are those published on every node; on the ingress network only.
	Ports []swarm.PortConfig `json:",omitempty"`
	// Exposed are the ports that tasks listen on, published or not; on user
	// networks only.
	Exposed []swarm.PortConfig `json:",omitempty"`
}

// Endpoint is a task as seen on one network.
type Endpoint struct {
	TaskID    string
	ServiceID string
	NodeID    string
	Slot      int
	// Name is the container's name, e.g. web.1.<task ID>.
	Name     string
	Hostname string `json:",omitempty"`
	// ContainerID is known of endpoints that serve or drain.
	ContainerID string `json:",omitempty"`
	Addrs       []netip.Addr
	State       EndpointState
	// Aliases are further names of a container that is no task.
	Aliases []string `json:",omitempty"`
}

// StatusReport carries new states of the sender's own tasks.
type StatusReport struct {
	Updates []StatusUpdate
}

// StatusUpdate is the observed state of one task.
type StatusUpdate struct {
	TaskID string
	Status swarm.TaskStatus
}

// Ack says which revision of each network the sender's kernel holds.
type Ack struct {
	Networks map[string]uint64 `json:",omitempty"`
	// Same: those of the Ack before in the stream.
	Same bool `json:",omitempty"`
}

// DrainedRequest asks to be answered when every subscriber of the task's
// networks has taken it out of its load balancers, or after two seconds.
type DrainedRequest struct {
	TaskID string
}

// DrainedReply names the nodes that had not acknowledged in time.
type DrainedReply struct {
	Late []string `json:",omitempty"`
}
