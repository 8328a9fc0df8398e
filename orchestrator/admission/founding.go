package admission

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/overlay/ipam"
)

// IngressVNI is the VXLAN network identifier of the ingress network; users'
// networks come after it.
const IngressVNI = 4096

// Docker's defaults of a new swarm.
const (
	defaultHistory       = 5
	defaultHeartbeat     = 5 * time.Second
	defaultSubnetSize    = 24
	defaultDataPathPort  = 4789
	defaultSnapshotEvery = 10000
	defaultSlowFollowers = 500
	defaultElectionTick  = 10
	defaultHeartbeatTick = 1
	clusterName          = "default"
	ingressName          = "ingress"
	vxlanIDOption        = "com.docker.network.driver.overlay.vxlanid_list"
	overlayDriver        = "overlay"
	defaultIPAM          = "default"
	minCertLife          = time.Hour
	defaultMeshSubnet    = "10.255.0.0/16"
	defaultKeptSnapshots = 0
)

// Founder is the first node of a cluster and what was asked of it.
type Founder struct {
	Request     swarm.InitRequest
	Description swarm.NodeDescription
	// Addr is host:port of the control port, as other nodes dial it.
	Addr string
	// DataAddr is where peers send overlay traffic to.
	DataAddr netip.Addr
	// DataPathPort is the UDP port of VXLAN.
	DataPathPort uint16
	// MeshSubnet is the range of the routing mesh, whose first address is the
	// gateway; zero for 10.255.0.0/16.
	MeshSubnet netip.Prefix
	// IPv6 gives the routing mesh an IPv6 subnet, too: a unique local one that
	// follows from the cluster's ID.
	IPv6 bool
}

// Found is a new cluster: the identity of its first node, and the Batch to
// propose once raft runs.
type Found struct {
	NodeID    string
	ClusterID string
	KeyPEM    []byte
	CertPEM   []byte
	RootPEM   []byte
	Batch     store.Batch
}

// NewCluster makes the CA, the first node's certificate and the first objects.
func NewCluster(f Founder) (Found, error) {
	ca, err := certs.NewCA()
	if err != nil {
		return Found{}, err
	}
	key, csr, err := certs.NewRequest()
	if err != nil {
		return Found{}, err
	}
	out := Found{ClusterID: store.NewID(), KeyPEM: key, RootPEM: ca.CertPEM()}
	if out.NodeID, err = certs.NodeID(csr); err != nil {
		return Found{}, err
	}
	c, err := newClusterObject(f, ca, out.ClusterID)
	if err != nil {
		return Found{}, err
	}
	id := certs.Identity{NodeID: out.NodeID, ClusterID: out.ClusterID, Role: certs.RoleManager}
	if out.CertPEM, err = ca.Sign(csr, id, c.Spec.CAConfig.NodeCertExpiry); err != nil {
		return Found{}, err
	}
	n := newNode(out.NodeID, swarm.NodeRoleManager, Candidate{
		Description: f.Description, Availability: f.Request.Availability, Addr: f.Addr, DataAddr: f.DataAddr,
	}, c.TLSInfo)
	n.Status.State = swarm.NodeStateReady
	n.ManagerStatus = &swarm.ManagerStatus{Leader: true, Reachability: swarm.ReachabilityReachable, Addr: f.Addr}
	out.Batch = store.Batch{Time: time.Now().UTC()}
	for _, o := range []store.Object{c, n, newIngress(meshSubnets(f, out.ClusterID), c.EncryptsAll())} {
		out.Batch.Changes = append(out.Batch.Changes,
			store.Change{Action: store.Create, Kind: o.Kind(), Key: o.Key(), Object: o})
	}
	return out, nil
}

func newClusterObject(f Founder, ca *certs.CA, id string) (*store.Cluster, error) {
	c := &store.Cluster{RootCert: ca.CertPEM(), RootKey: ca.KeyPEM(), LastVNI: IngressVNI}
	c.ID = id
	c.Spec = withDefaults(f.Request.Spec)
	if c.Spec.CAConfig.NodeCertExpiry < minCertLife {
		return nil, remote.Errorf(errdefs.ErrInvalidArgument, "minimum certificate expiry time must be at least %v", minCertLife)
	}
	if f.Request.AutoLockManagers {
		c.Spec.EncryptionConfig.AutoLockManagers = true
	}
	SetLock(c, false)
	c.GossipKeys = []store.GossipKey{newGossipKey(time.Now(), true)}
	c.TLSInfo = tlsInfo(ca)
	c.DefaultAddrPool, c.SubnetSize = addrPool(f.Request)
	c.DataPathPort = uint32(f.DataPathPort)
	if c.DataPathPort == 0 {
		c.DataPathPort = defaultDataPathPort
	}
	var err error
	if c.JoinTokens.Worker, err = certs.NewToken(c.RootCert); err == nil {
		c.JoinTokens.Manager, err = certs.NewToken(c.RootCert)
	}
	return c, err
}

// addrPool is what the founder said of networks' addresses; nothing if he left it
// to us. Docker's client always sends its default size, so that alone says nothing.
func addrPool(r swarm.InitRequest) ([]netip.Prefix, uint32) {
	pools, size := r.DefaultAddrPool, orDefault(r.SubnetSize, defaultSubnetSize)
	if len(pools) > 0 {
		return pools, size
	}
	if size == defaultSubnetSize {
		return nil, 0
	}
	return []netip.Prefix{ipam.DefaultRange()}, size
}

func tlsInfo(ca *certs.CA) swarm.TLSInfo {
	subject, key := ca.Issuer()
	return swarm.TLSInfo{TrustRoot: string(ca.CertPEM()), CertIssuerSubject: subject, CertIssuerPublicKey: key}
}

func withDefaults(s swarm.Spec) swarm.Spec {
	s.Name = clusterName
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	if s.Orchestration.TaskHistoryRetentionLimit == nil {
		s.Orchestration.TaskHistoryRetentionLimit = new(int64(defaultHistory))
	}
	if s.Raft.KeepOldSnapshots == nil {
		s.Raft.KeepOldSnapshots = new(uint64(defaultKeptSnapshots))
	}
	s.Raft.SnapshotInterval = orDefault(s.Raft.SnapshotInterval, defaultSnapshotEvery)
	s.Raft.LogEntriesForSlowFollowers = orDefault(s.Raft.LogEntriesForSlowFollowers, defaultSlowFollowers)
	s.Raft.ElectionTick = orDefault(s.Raft.ElectionTick, defaultElectionTick)
	s.Raft.HeartbeatTick = orDefault(s.Raft.HeartbeatTick, defaultHeartbeatTick)
	s.Dispatcher.HeartbeatPeriod = orDefault(s.Dispatcher.HeartbeatPeriod, defaultHeartbeat)
	s.CAConfig.NodeCertExpiry = orDefault(s.CAConfig.NodeCertExpiry, certs.DefaultLife)
	return s
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// newNode is a node as it enters; the dispatcher finds out how it is.
func newNode(id string, role swarm.NodeRole, c Candidate, tls swarm.TLSInfo) *store.Node {
	n := &store.Node{DataAddr: c.DataAddr}
	n.ID = id
	n.Spec.Role = role
	n.Spec.Labels = map[string]string{}
	n.Spec.Availability = c.Availability
	if n.Spec.Availability == "" {
		n.Spec.Availability = swarm.NodeAvailabilityActive
	}
	n.Description = c.Description
	n.Description.TLSInfo = tls
	n.Status = swarm.NodeStatus{State: swarm.NodeStateUnknown, Addr: hostOf(c.Addr)}
	return n
}

// hostOf is the address without its port, as Docker shows a node's.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// meshSubnets are the ranges of the routing mesh.
func meshSubnets(f Founder, clusterID string) []netip.Prefix {
	out := []netip.Prefix{orDefault(f.MeshSubnet, netip.MustParsePrefix(defaultMeshSubnet))}
	if f.IPv6 {
		out = append(out, ipam.UniqueLocalMesh(clusterID))
	}
	return out
}

// newIngress is the network of the routing mesh, which every task is on.
func newIngress(subnets []netip.Prefix, encrypted bool) *store.Network {
	n := &store.Network{VNI: IngressVNI, Ready: true}
	n.ID = store.NewID()
	n.Spec.Name, n.Spec.Labels = ingressName, map[string]string{}
	n.Spec.Ingress = true
	n.Spec.Scope = "swarm"
	n.Spec.DriverConfiguration = &swarm.Driver{Name: overlayDriver}
	if encrypted {
		n.Spec.DriverConfiguration.Options = map[string]string{store.OptionEncrypted: ""}
	}
	options := swarm.IPAMOptions{Driver: swarm.Driver{Name: defaultIPAM}}
	for _, s := range subnets {
		options.Configs = append(options.Configs, swarm.IPAMConfig{Subnet: s, Gateway: s.Addr().Next()})
		n.Spec.IPv6Enabled = n.Spec.IPv6Enabled || s.Addr().Is6()
	}
	n.Spec.IPAMOptions, n.IPAMOptions = &options, &options
	n.DriverState = swarm.Driver{Name: overlayDriver, Options: map[string]string{vxlanIDOption: strconv.Itoa(IngressVNI)}}
	return n
}

// SetLock gives a cluster with autolock an unlock key, a new one if it is to be
// rotated, and takes it from one without.
func SetLock(c *store.Cluster, rotate bool) {
	switch {
	case !c.Spec.EncryptionConfig.AutoLockManagers:
		c.UnlockKey = ""
	case c.UnlockKey == "" || rotate:
		c.UnlockKey = certs.NewUnlockKey().String()
	}
}

// RotateTokens returns the cluster with new join tokens; the old ones open
// nothing from the commit on.
func RotateTokens(c *store.Cluster, worker, manager bool) (*store.Cluster, error) {
	next := *c
	var err error
	if worker {
		next.JoinTokens.Worker, err = certs.NewToken(c.RootCert)
	}
	if manager && err == nil {
		next.JoinTokens.Manager, err = certs.NewToken(c.RootCert)
	}
	return &next, err
}

// RotateToken gives a role a new join token.
func RotateToken(tx *store.Tx, role swarm.NodeRole) error {
	c := tx.Cluster()
	if c == nil {
		return fmt.Errorf("rotate join token: %w", errdefs.ErrNotFound)
	}
	next, err := RotateTokens(c, role == swarm.NodeRoleWorker, role == swarm.NodeRoleManager)
	if err == nil {
		tx.Update(next)
	}
	return err
}
