package meshd

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"

	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/overlay/gossip"
)

// Config is everything a node is told from outside.
type Config struct {
	// StateDir holds what must survive a reboot: keys, raft log, membership.
	StateDir string
	// RunDir holds what must survive a restart of the daemon only: bpffs, sockets.
	RunDir string
	// Socket is the path of the API's unix socket.
	Socket string
	// Group may use Socket beside root: its name or ID; empty: none.
	Group string
	// Hosts are further addresses of the API, tcp://address:port; see CheckHosts.
	Hosts []string
	// TLS is what clients of Hosts must have; nil: no TLS.
	TLS *APITLS
	// InsecureTCP allows Hosts without TLS beyond this machine.
	InsecureTCP bool
	// AuditLog is the file that requests which may change something are noted in;
	// "-": standard output, empty: nowhere.
	AuditLog string
	// Engine is the path of the local Docker Engine's unix socket.
	Engine string
	// PluginDir is where the engine looks for network drivers.
	PluginDir string
	// DataPathPort is the UDP port of VXLAN unless `swarm init` chooses another.
	DataPathPort uint16
	// GossipPort is the TCP and UDP port by which nodes watch each other, the same on
	// all nodes of a cluster. Zero: DefaultGossipPort.
	GossipPort uint16
	// Encrypt says which networks of a swarm that begins here are encrypted, the mesh
	// network included: store.EncryptAll or, as without, those that ask for it.
	Encrypt string
	// WireGuardPort is the UDP port of encrypted packets between nodes; they use the next
	// one, too. Zero: DefaultWireGuardPort.
	WireGuardPort uint16
	// DirectRouting sends to nodes on the same link without VXLAN, and takes what they
	// so send, where it is seen to arrive; see overlay/DESIGN.md.
	DirectRouting bool
	// Datapath says what carries packets between containers; see overlay's Driver. Empty: auto.
	Datapath string
	// LoadBalancer says where VIPs become backends; see ipvs/ebpf's Mode. Empty: auto.
	LoadBalancer string
	// Balancer is BalancerAuto, BalancerEBPF or BalancerIPVS.
	Balancer string
	// BypassFirewall lets published ports answer whatever the host's packet filter says.
	BypassFirewall bool
	// PublishOn lists the interfaces, addresses and prefixes that published ports
	// answer on where their service does not say. Empty: all.
	PublishOn string
	// MeshSubnet is the range of the mesh network of a swarm that begins here; the zero
	// value leaves the choice to meshd.
	MeshSubnet netip.Prefix
	// MetricsAddr is where metrics are served over TCP, to anyone; empty: only on Socket.
	MetricsAddr string
	// AllowPrivileged lets tasks with the labels mesh.privileged and mesh.devices run here.
	AllowPrivileged bool
	// Version is shown by the API.
	Version string
	Logger  *slog.Logger

	// network and answers are the simulation's own; nil: TCP, and dispatcher.Answers.
	network remote.Network
	answers func(context.Context, netip.Addr) bool
}

// Defaults, as the package of a distribution would have them.
const (
	DefaultStateDir     = "/var/lib/meshd"
	DefaultRunDir       = "/run/meshd"
	DefaultSocket       = "/run/meshd/meshd.sock"
	DefaultEngine       = "unix:///var/run/docker.sock"
	DefaultPluginDir    = "/run/docker/plugins"
	DefaultDataPathPort = 4789
	DefaultControlPort  = 2377
	DefaultGossipPort   = gossip.DefaultPort
	// DefaultWireGuardPort is what WireGuard's own tools propose.
	DefaultWireGuardPort = 51820
)

// gossipPort is the port that gossip uses.
func (c Config) gossipPort() uint16 {
	if c.GossipPort == 0 {
		return DefaultGossipPort
	}
	return c.GossipPort
}

func (c Config) membershipFile() string { return filepath.Join(c.StateDir, "membership.json") }
func (c Config) certDir() string        { return filepath.Join(c.StateDir, "certificates") }
func (c Config) keyFile() string        { return filepath.Join(c.StateDir, "wireguard.json") }
func (c Config) raftDir() string        { return filepath.Join(c.StateDir, "raft") }
func (c Config) resolvConf() string     { return filepath.Join(c.StateDir, "resolv.conf") }
func (c Config) driverDir() string      { return filepath.Join(c.StateDir, "driver") }
func (c Config) agentDir() string       { return filepath.Join(c.StateDir, "agent") }
func (c Config) tasksDir() string       { return filepath.Join(c.RunDir, "tasks") }
func (c Config) pluginSocket() string   { return filepath.Join(c.PluginDir, "meshd.sock") }
