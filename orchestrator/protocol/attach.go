package protocol

import (
	"net/netip"

	"github.com/moby/moby/api/types/swarm"
)

// A container that somebody puts on networks by hand is an attachment: the node
// asks for addresses before the engine has it (POST /v1/attach), and tells
// again and again what is attached (POST /v1/attached). Managers make theirs equal
// to that, so that nothing has to be undone one by one.

// AttachRequest asks for addresses for a container of the sender's.
type AttachRequest struct {
	// TaskID is that of the container's attachment; empty if it has none yet.
	TaskID string `json:",omitempty"`
	// ContainerID and Name are empty as long as the engine has not made it.
	ContainerID string `json:",omitempty"`
	Name        string `json:",omitempty"`
	Networks    []AttachTo
}

// AttachTo is one network that a container is to be on.
type AttachTo struct {
	// Target is the network's name, its ID or the start of that.
	Target string
	// Addrs are those asked for, at most one of a family.
	Addrs   []netip.Addr `json:",omitempty"`
	Aliases []string     `json:",omitempty"`
}

// AttachReply answers with addresses on the mesh network, which every container
// has its way out on, and on those asked for, in their order.
type AttachReply struct {
	TaskID   string
	Networks []AttachedTo
}

// AttachedTo are a container's addresses on a network.
type AttachedTo struct {
	ID      string
	Name    string
	Addrs   []netip.Prefix
	Aliases []string `json:",omitempty"`
}

// AttachedReport is what is attached on the sender.
type AttachedReport struct {
	Containers []Attached
	// Partial says that others are being attached: what is not named may be there.
	Partial bool `json:",omitempty"`
}

// Attached is a container of no task that is on networks of the cluster.
type Attached struct {
	// TaskID is the attachment's, which the container carries on its endpoints.
	TaskID      string
	ContainerID string
	Name        string
	// Running: its addresses are there; a stopped one keeps them for its next start.
	Running  bool
	Networks []AttachedTo
	// Beside: it is on networks of the engine's own, too, whose names the engine's
	// resolver knows.
	Beside bool `json:",omitempty"`
	// Ports are those that the container publishes on its node.
	Ports []swarm.PortConfig `json:",omitempty"`
}

// AttachedReply names what is not to stay.
type AttachedReply struct {
	Refused []Refused `json:",omitempty"`
	// Again asks for another report soon: not all is decided.
	Again bool `json:",omitempty"`
}

// Refused is a container that cannot be on a network: its address belongs to
// somebody else by now, or the network is gone.
type Refused struct {
	TaskID  string
	Network string
	Reason  string
}
