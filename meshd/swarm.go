package meshd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/meshd/api"
	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/overlay"
)

// Refusals in Docker's words, which its clients know.
var (
	errInSwarm = remote.Errorf(errdefs.ErrUnavailable,
		`This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.`)
	errNotInSwarm = remote.Errorf(errdefs.ErrUnavailable, "This node is not part of a swarm")
	errBusy       = remote.Errorf(errdefs.ErrUnavailable,
		"This node is joining or leaving a swarm at the moment. Try again when that has ended.")
)

// startTimeout bounds the wait for a new node's control plane to answer.
const startTimeout = 20 * time.Second

// Status implements api.Node.
func (d *Daemon) Status() api.Status {
	d.mu.Lock()
	n, failure := d.node, d.failure
	d.mu.Unlock()
	if n == nil {
		s := api.Status{State: swarm.LocalNodeStateInactive}
		if failure != nil {
			s.State, s.Error = swarm.LocalNodeStateError, failure.Error()
		}
		if errors.Is(failure, certs.ErrLocked) {
			s.State, s.Error = swarm.LocalNodeStateLocked, ""
		}
		return s
	}
	m := n.snapshot()
	s := api.Status{
		State: swarm.LocalNodeStateActive, NodeID: m.NodeID,
		NodeAddr: m.AdvertiseAddr.Addr().String(), Managers: m.Managers,
	}
	if n.manager != nil {
		s.Managers = n.manager.peers()
		if err := n.manager.Trouble(); err != nil {
			s.Error = err.Error()
		}
	}
	select {
	case <-n.done:
		if errors.Is(n.err, errRoleChanged) {
			s.State = swarm.LocalNodeStatePending
			break
		}
		s.State, s.Error = swarm.LocalNodeStateError, "the node's part in the swarm has ended"
		if n.err != nil {
			s.Error = n.err.Error()
		}
	default:
	}
	return s
}

// Manager implements api.Node.
func (d *Daemon) Manager() (api.Control, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.node == nil || d.node.manager == nil {
		return nil, false
	}
	return d.node.manager, true
}

// begin takes the right to change the membership; release gives it back.
func (d *Daemon) begin(inSwarm bool) (release func(), err error) {
	if !d.op.TryLock() {
		return nil, errBusy
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.node != nil && !inSwarm, errors.Is(d.failure, certs.ErrLocked) && !inSwarm:
		err = errInSwarm
	case d.node == nil && inSwarm && d.failure == nil:
		err = errNotInSwarm
	}
	if err != nil {
		d.op.Unlock()
		return nil, err
	}
	return d.op.Unlock, nil
}

// addresses works out where this node listens and is reached.
func addresses(listen, advertise, data string) (membership, error) {
	var m membership
	ifs, err := hostInterfaces()
	if err != nil {
		return m, err
	}
	if listen == "" {
		listen = "0.0.0.0"
	}
	l, err := resolveAddress(listen, DefaultControlPort, ifs)
	if err != nil {
		return m, err
	}
	m.ListenAddr = l.String()
	if advertise == "" && !l.Addr().IsUnspecified() {
		advertise = listen
	}
	if m.AdvertiseAddr, err = resolveAddress(advertise, l.Port(), ifs); err != nil {
		return m, err
	}
	if m.AdvertiseAddr.Addr().IsUnspecified() {
		return m, invalid("advertise address must be a non-zero IP address or network interface (with optional port number)")
	}
	m.DataAddr = m.AdvertiseAddr.Addr()
	if data != "" {
		p, err := resolveAddress(data, DefaultControlPort, ifs)
		if err != nil {
			return m, err
		}
		m.DataAddr = p.Addr()
	}
	return m.settleOn(ifs), nil
}

// Init implements api.Node: it makes a new cluster of this node.
func (d *Daemon) Init(ctx context.Context, r swarm.InitRequest) (string, error) {
	if r.ForceNewCluster {
		return d.recoverCluster(ctx, r)
	}
	release, err := d.begin(false)
	if err != nil {
		return "", err
	}
	defer release()
	m, err := addresses(r.ListenAddr, r.AdvertiseAddr, r.DataPathAddr)
	if err != nil {
		return "", err
	}
	m.DataPathPort = uint16(r.DataPathPort)
	if m.DataPathPort == 0 {
		m.DataPathPort = d.cfg.DataPathPort
	}
	desc, err := d.runner.Describe(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the Docker Engine about this machine: %w", err)
	}
	mesh, err := freeMeshSubnet(d.cfg.MeshSubnet, r.DefaultAddrPool)
	if err != nil {
		return "", err
	}
	if d.cfg.Encrypt != "" {
		labels := map[string]string{store.LabelEncrypt: d.cfg.Encrypt}
		maps.Copy(labels, r.Spec.Labels) // what is asked for goes before
		r.Spec.Labels = labels
	}
	found, err := admission.NewCluster(admission.Founder{
		Request: r, Description: desc, Addr: m.AdvertiseAddr.String(), DataAddr: m.DataAddr, DataPathPort: m.DataPathPort,
		MeshSubnet: mesh, IPv6: overlay.HasIPv6(),
	})
	if err != nil {
		return "", err
	}
	m.NodeID, m.ClusterID = found.NodeID, found.ClusterID
	k, err := certs.Create(d.cfg.certDir(), found.KeyPEM, found.CertPEM, found.RootPEM)
	if err != nil {
		return "", fmt.Errorf("keep the node's certificate: %w", err)
	}
	n, err := d.openNode(m, k, nil)
	if err != nil {
		return "", errors.Join(err, d.forget())
	}
	if err := n.manager.Bootstrap(); err != nil {
		return "", errors.Join(err, d.forget())
	}
	d.startNode(n)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if _, err := n.manager.Propose(ctx, found.Batch); err != nil {
		return "", errors.Join(fmt.Errorf("store the new swarm: %w", err), d.drop(n))
	}
	if err := m.save(d.cfg.membershipFile()); err != nil {
		return "", errors.Join(err, d.drop(n))
	}
	d.log.Info("a new swarm", "cluster", m.ClusterID, "node", m.NodeID, "address", m.AdvertiseAddr)
	return m.NodeID, nil
}

// Join implements api.Node.
func (d *Daemon) Join(ctx context.Context, r swarm.JoinRequest) error {
	release, err := d.begin(false)
	if err != nil {
		return err
	}
	defer release()
	if len(r.RemoteAddrs) == 0 {
		return invalid("at least 1 RemoteAddr is required to join")
	}
	token, err := certs.ParseToken(r.JoinToken)
	if err != nil {
		return remote.Errorf(errdefs.ErrInvalidArgument, "%v", err)
	}
	m, err := addresses(r.ListenAddr, r.AdvertiseAddr, r.DataPathAddr)
	if err != nil {
		return err
	}
	desc, err := d.runner.Describe(ctx)
	if err != nil {
		return fmt.Errorf("ask the Docker Engine about this machine: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	in, err := joinAny(ctx, r.RemoteAddrs, token, admission.Candidate{
		Token: r.JoinToken, Description: desc, Availability: r.Availability,
		Addr: m.AdvertiseAddr.String(), DataAddr: m.DataAddr,
	})
	if err != nil {
		return err
	}
	m.NodeID, m.ClusterID, m.Managers, m.DataPathPort = in.NodeID, in.ClusterID, in.Managers, in.DataPathPort
	k, err := certs.Create(d.cfg.certDir(), in.KeyPEM, in.CertPEM, in.RootPEM)
	if err != nil {
		return fmt.Errorf("keep the node's certificate: %w", err)
	}
	n, err := d.openNode(m, k, nil)
	if err != nil {
		return errors.Join(err, d.forget())
	}
	d.startNode(n)
	if err := n.enter(ctx, in.Managers); err != nil {
		return errors.Join(err, d.drop(n))
	}
	if err := m.save(d.cfg.membershipFile()); err != nil {
		return errors.Join(err, d.drop(n))
	}
	d.data.warnOfRoutes(in.Networks)
	d.log.Info("joined a swarm", "cluster", m.ClusterID, "node", m.NodeID, "address", m.AdvertiseAddr)
	return nil
}

// joinAny asks the given managers in turn; the last refusal is returned.
func joinAny(ctx context.Context, addrs []string, token certs.Token, c admission.Candidate) (admission.Joined, error) {
	var joined admission.Joined
	err := errors.New("no manager was asked")
	for _, addr := range addrs {
		host, port, serr := splitPort(addr, DefaultControlPort)
		if serr != nil {
			return joined, serr
		}
		ip, perr := netip.ParseAddr(host)
		target := addr
		if perr == nil {
			target = netip.AddrPortFrom(ip, port).String()
		}
		if joined, err = admission.Join(ctx, target, token, c); err == nil {
			return joined, nil
		}
	}
	return joined, err
}

// enter completes a manager's joining: it becomes a voter and waits until its
// own store knows the cluster. Workers are in as soon as their session is.
func (n *node) enter(ctx context.Context, managers []swarm.Peer) error {
	if n.manager == nil {
		return nil
	}
	m := n.snapshot()
	err := errors.New("no manager is known")
	for _, p := range managers {
		if err = admission.JoinRaft(ctx, n.client, p.Addr, m.AdvertiseAddr.String()); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("join the managers' raft: %w", err)
	}
	return n.manager.waitFor(ctx, func(v *store.View) bool { return v.Node(m.NodeID) != nil })
}

// waitFor returns when the store's state satisfies cond.
func (m *manager) waitFor(ctx context.Context, cond func(*store.View) bool) error {
	ok := false
	w := m.store.Watch(func(v *store.View) { ok = cond(v) })
	defer w.Close()
	for !ok {
		select {
		case _, open := <-w.C:
			if !open {
				return m.waitFor(ctx, cond)
			}
			m.store.View(func(v *store.View) { ok = cond(v) })
		case <-ctx.Done():
			return fmt.Errorf("wait for the swarm's state: %w", ctx.Err())
		}
	}
	return nil
}
