package store

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// Kind names a table. The values travel in the raft log and must not change.
type Kind string

// The kinds of objects.
const (
	KindCluster Kind = "cluster"
	KindNode    Kind = "node"
	KindService Kind = "service"
	KindSpec    Kind = "spec"
	KindTask    Kind = "task"
	KindNetwork Kind = "network"
	KindSecret  Kind = "secret"
	KindConfig  Kind = "config"
)

// Object is anything the store holds. Stored objects are never modified.
type Object interface {
	Kind() Kind
	Key() string
	meta() *swarm.Meta
	clone() Object
}

// Version is the raft index of the object's last change; zero if never stored.
func Version(o Object) uint64 { return o.meta().Version.Index }

// UpdatedAt is the time of the object's last change.
func UpdatedAt(o Object) time.Time { return o.meta().UpdatedAt }

// ClusterID is the key of the one Cluster object.
const ClusterID = "default"

// Cluster holds the cluster-wide settings and secrets. Exactly one exists.
type Cluster struct {
	swarm.Swarm
	// RootCert and RootKey are the PEM of the cluster's CA. The key never leaves
	// the managers; there is none if an external CA has it.
	RootCert []byte
	RootKey  []byte
	// NextRoot takes the place of the root when all nodes have certificates of it.
	NextRoot *NextRoot `json:",omitempty"`
	// Cross leads from the former root to the present one, or to the next.
	Cross []byte `json:",omitempty"`
	// BlockedNodes are the IDs of removed nodes whose certificates have not expired.
	BlockedNodes map[string]time.Time `json:",omitempty"`
	// UnlockKey is what managers need to start (certs.UnlockKey); empty while autolock
	// is off.
	UnlockKey string `json:",omitempty"`
	// LastVNI is the highest VXLAN network identifier handed out; freed ones are
	// reused only after the range wrapped.
	LastVNI uint32
	// GossipKeys encrypt what nodes tell each other of who is alive, newest first.
	// They go to members only, and the oldest ones are forgotten.
	GossipKeys []GossipKey `json:",omitempty"`
	// KeyEpoch counts how often nodes were asked to change their WireGuard keys;
	// KeyEpochSince is when they last were, KeyLife how long keys last, zero: the default.
	KeyEpoch      uint64        `json:",omitempty"`
	KeyEpochSince time.Time     `json:",omitzero"`
	KeyLife       time.Duration `json:",omitempty"`
}

// NextRoot is a root to which the cluster is being moved: certificate and key, PEM.
type NextRoot struct {
	Cert []byte
	Key  []byte `json:",omitempty"`
}

// SigningRoot is the root that certifies nodes now.
func (o *Cluster) SigningRoot() NextRoot {
	if o.NextRoot != nil {
		return *o.NextRoot
	}
	return NextRoot{Cert: o.RootCert, Key: o.RootKey}
}

// GossipKey is one key of the nodes' gossip.
type GossipKey struct {
	// Key is 32 random bytes.
	Key []byte
	// Since is when the key was made or, if InUse, when its use began.
	Since time.Time
	// InUse says that nodes encrypt with the newest key of which this holds; before,
	// it only opens what others send.
	InUse bool
}

// Node is a machine of the cluster.
type Node struct {
	swarm.Node
	// DataAddr is where peers send overlay traffic to.
	DataAddr netip.Addr
	// Direct says that it takes overlay packets without encapsulation.
	Direct bool
	// Keys are those by which it takes encrypted packets, newest first. Nodes make them.
	Keys []EncryptionKey `json:",omitempty"`
	// Stopping says that its machine is shutting down, or has done so: it keeps no
	// tasks. The node's next session after its start ends that.
	Stopping bool `json:",omitempty"`
}

// EncryptionKey is one of a node's public WireGuard keys.
type EncryptionKey struct {
	// Epoch is the cluster's KeyEpoch that it was made for.
	Epoch uint64
	Key   []byte
	// Port is the UDP port of packets for it.
	Port uint16
}

// Service is what a user asked to run.
type Service struct {
	swarm.Service
	// SpecVersion numbers the Spec object that new tasks of this service use. After
	// a rollback it is lower than that of the newest Spec.
	SpecVersion uint64
	// UpdateVersion is the SpecVersion that UpdateStatus is about.
	UpdateVersion uint64 `json:",omitempty"`
	// Schedule is set of jobs that run by the clock.
	Schedule *Schedule `json:",omitempty"`
}

// Schedule is where a job that runs by the clock stands.
type Schedule struct {
	// Since is the last time that was dealt with: its run was begun, or left out.
	Since time.Time
	// Skipped counts the times that were left out since the schedule was set.
	Skipped uint64 `json:",omitempty"`
}

// Spec is one immutable version of a service's task template. Tasks point at
// it, so that 10,000 tasks of a service store their template once.
type Spec struct {
	swarm.Meta
	ServiceID string
	Number    uint64
	Template  swarm.TaskSpec
	// RegistryAuth is the encoded X-Registry-Auth header for pulling the image.
	RegistryAuth string `json:",omitempty"`
}

// SpecKey is the key of version number of a service's task template.
func SpecKey(serviceID string, number uint64) string {
	return fmt.Sprintf("%s.%d", serviceID, number)
}

// Task is one run of a service's container. Its swarm.Task.Spec stays empty in
// the store (see Spec), and NetworksAttachments name their network by ID only;
// View.JoinTask fills both in.
//
// A task of no service is an attachment: a container that somebody put on
// networks by hand, on the node it is on. It has a spec of its own, with a
// NetworkAttachmentSpec and the networks, and is named like its container. Its
// state goes from running back to starting when the container is stopped.
type Task struct {
	swarm.Task
	SpecVersion uint64
	// Wanted are the addresses that an attachment asks for.
	Wanted []netip.Addr `json:",omitempty"`
	// Beside says of an attachment that it is on networks of its engine's own, too.
	Beside bool `json:",omitempty"`
	// Restarts counts how often the slot's task was replaced after it had ended by
	// itself, RestartedAt says when. They are kept only where the restart policy
	// limits the attempts, for as long as the slot stays at this SpecVersion.
	Restarts    uint64      `json:",omitempty"`
	RestartedAt []time.Time `json:",omitempty"`
	// MovesTo is an emptier node that has room for the task: it is to be replaced, and
	// the next one goes there, if nothing came between.
	MovesTo string `json:",omitempty"`
}

// Attached says that the task is an attachment.
func (o *Task) Attached() bool { return o.Spec.NetworkAttachmentSpec != nil }

// Network is an overlay network of the cluster.
type Network struct {
	swarm.Network
	// VNI is its VXLAN network identifier; zero until allocated.
	VNI uint32
	// Ready says that the allocator has given it VNI and subnets.
	Ready bool
	// Aux are addresses of its subnets that hosts beyond the swarm have, by name:
	// nobody is given them.
	Aux map[string]netip.Addr `json:",omitempty"`
	// Error says why the allocator cannot give it what it needs.
	Error string `json:",omitempty"`
}

// Secret is a piece of data that only tasks using it may see.
type Secret struct{ swarm.Secret }

// Config is a piece of data that tasks mount as a file.
type Config struct{ swarm.Config }

// Kind implements Object.
func (*Cluster) Kind() Kind { return KindCluster }

// Key implements Object.
func (*Cluster) Key() string         { return ClusterID }
func (o *Cluster) meta() *swarm.Meta { return &o.Meta }
func (o *Cluster) clone() Object     { c := *o; return &c }

// Kind implements Object.
func (*Node) Kind() Kind { return KindNode }

// Key implements Object.
func (o *Node) Key() string       { return o.ID }
func (o *Node) meta() *swarm.Meta { return &o.Meta }
func (o *Node) clone() Object     { c := *o; return &c }

// Hostname is the name the node calls itself.
func (o *Node) Hostname() string { return o.Description.Hostname }

// Kind implements Object.
func (*Service) Kind() Kind { return KindService }

// Key implements Object.
func (o *Service) Key() string       { return o.ID }
func (o *Service) meta() *swarm.Meta { return &o.Meta }
func (o *Service) clone() Object     { c := *o; return &c }

// Kind implements Object.
func (*Spec) Kind() Kind { return KindSpec }

// Key implements Object.
func (o *Spec) Key() string       { return SpecKey(o.ServiceID, o.Number) }
func (o *Spec) meta() *swarm.Meta { return &o.Meta }
func (o *Spec) clone() Object     { c := *o; return &c }

// Kind implements Object.
func (*Task) Kind() Kind { return KindTask }

// Key implements Object.
func (o *Task) Key() string       { return o.ID }
func (o *Task) meta() *swarm.Meta { return &o.Meta }
func (o *Task) clone() Object     { c := *o; return &c }

// Kind implements Object.
func (*Network) Kind() Kind { return KindNetwork }

// OptionIPv4 is the driver option by which a network has no IPv4 when it is
// "false"; Docker's name for it. IPv6 has a field of its own in the spec.
const OptionIPv4 = "com.docker.network.enable_ipv4"

// IPv4Enabled says whether the network's tasks are to have IPv4 addresses.
func (o *Network) IPv4Enabled() bool { return o.enabled(OptionIPv4, true) }

// OptionEncrypted is the driver option by which a network's packets travel encrypted
// between nodes, whatever its value but "false"; Docker's name for it.
const OptionEncrypted = "encrypted"

// LabelEncrypt of a swarm says which networks are made encrypted: EncryptAll, or those
// that ask for it, the default.
const (
	LabelEncrypt = "mesh.encrypt"
	EncryptAll   = "all"
	EncryptOptIn = "opt-in"
)

// EncryptsAll says whether new networks are encrypted unasked.
func (o *Cluster) EncryptsAll() bool { return o.Spec.Labels[LabelEncrypt] == EncryptAll }

// Encrypted says whether the network's packets never travel in the clear.
func (o *Network) Encrypted() bool { return o.enabled(OptionEncrypted, false) }

// enabled says whether a driver option is there with a value that is not false.
func (o *Network) enabled(option string, otherwise bool) bool {
	d := o.Spec.DriverConfiguration
	if d == nil {
		return otherwise
	}
	value, there := d.Options[option]
	if !there {
		return otherwise
	}
	on, err := strconv.ParseBool(value)
	return err != nil || on
}

// Key implements Object.
func (o *Network) Key() string       { return o.ID }
func (o *Network) meta() *swarm.Meta { return &o.Meta }
func (o *Network) clone() Object     { c := *o; return &c }

// Kind implements Object.
func (*Secret) Kind() Kind { return KindSecret }

// Key implements Object.
func (o *Secret) Key() string       { return o.ID }
func (o *Secret) meta() *swarm.Meta { return &o.Meta }
func (o *Secret) clone() Object     { c := *o; return &c }

// Kind implements Object.
func (*Config) Kind() Kind { return KindConfig }

// Key implements Object.
func (o *Config) Key() string       { return o.ID }
func (o *Config) meta() *swarm.Meta { return &o.Meta }
func (o *Config) clone() Object     { c := *o; return &c }

// newObject returns an empty object of a kind, to decode into.
func newObject(k Kind) (Object, error) {
	switch k {
	case KindCluster:
		return &Cluster{}, nil
	case KindNode:
		return &Node{}, nil
	case KindService:
		return &Service{}, nil
	case KindSpec:
		return &Spec{}, nil
	case KindTask:
		return &Task{}, nil
	case KindNetwork:
		return &Network{}, nil
	case KindSecret:
		return &Secret{}, nil
	case KindConfig:
		return &Config{}, nil
	}
	return nil, fmt.Errorf("store: unknown kind of object %q", k)
}

// decodeObject reads one object as encoding/json wrote it.
func decodeObject(k Kind, data []byte) (Object, error) {
	o, err := newObject(k)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, o); err != nil {
		return nil, fmt.Errorf("store: decode %s: %w", k, err)
	}
	return o, nil
}
