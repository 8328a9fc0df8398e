package meshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/admission"
)

// A machine's address may change under it, by a new DHCP lease. Its certificate
// says who it is, wherever it calls from; so the node's part in the swarm begins
// anew with the new address, as after a restart of the daemon: containers and the
// kernel's tables go on. The session tells the managers where overlay traffic goes
// now, and they tell the other nodes; a manager has its address in raft replaced.

// errMoved ends a node whose machine has another address.
var errMoved = errors.New("this machine's address has changed")

const (
	// moveSettle is how long a new address must last: clients of DHCP take the old
	// one away first. It is short against a node's lease.
	moveSettle = 250 * time.Millisecond
	// moveLook is how often addresses are looked at although nobody told of a change.
	moveLook = 10 * time.Second
	// moveRetry is the pause before raft is asked again to take a new address.
	moveRetry = time.Second
)

// settleOn notes on which devices the node's addresses are; those that are on none
// (behind address translation) are never followed.
func (m membership) settleOn(ifs []hostInterface) membership {
	if d := deviceOf(m.AdvertiseAddr.Addr(), ifs); d != "" {
		m.AdvertiseDevice = d
	}
	if d := deviceOf(m.DataAddr, ifs); d != "" {
		m.DataDevice = d
	}
	return m
}

// moved is the membership with the addresses that those devices have now that the
// former ones are gone. While a device has none, nothing has moved yet.
func (m membership) moved(ifs []hostInterface) (membership, bool) {
	out := m
	advertise := follow(m.AdvertiseAddr.Addr(), m.AdvertiseDevice, ifs)
	out.AdvertiseAddr = netip.AddrPortFrom(advertise, m.AdvertiseAddr.Port())
	out.DataAddr = follow(m.DataAddr, m.DataDevice, ifs)
	if host, port, err := net.SplitHostPort(m.ListenAddr); err == nil && host == m.AdvertiseAddr.Addr().String() {
		out.ListenAddr = net.JoinHostPort(advertise.String(), port)
	}
	return out, out.AdvertiseAddr != m.AdvertiseAddr || out.DataAddr != m.DataAddr
}

func follow(addr netip.Addr, device string, ifs []hostInterface) netip.Addr {
	if device == "" || deviceOf(addr, ifs) != "" {
		return addr
	}
	for _, i := range ifs {
		at := slices.IndexFunc(i.Addrs, func(a netip.Addr) bool { return a.Is4() == addr.Is4() })
		if i.Name == device && at >= 0 {
			return i.Addrs[at]
		}
	}
	return addr
}

// deviceOf is the name of the interface that has an address, "" if none has.
func deviceOf(addr netip.Addr, ifs []hostInterface) string {
	for _, i := range ifs {
		if slices.Contains(i.Addrs, addr) {
			return i.Name
		}
	}
	return ""
}

// awaitMove returns errMoved when the machine has another address, for good.
func (n *node) awaitMove(ctx context.Context) error {
	wait := time.Duration(0)
	for suspected := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-n.d.addrs:
			wait = moveSettle
			continue
		case <-time.After(wait):
		}
		m, moved := n.whereNow()
		if moved && suspected {
			return fmt.Errorf("%w: from %s to %s", errMoved, n.snapshot().DataAddr, m.DataAddr)
		}
		suspected, wait = moved, moveLook
		if moved {
			wait = moveSettle
		}
	}
}

// whereNow is the membership as the machine's addresses have it.
func (n *node) whereNow() (membership, bool) {
	m := n.snapshot()
	ifs, err := hostInterfaces()
	if err != nil {
		return m, false
	}
	if settled := m.settleOn(ifs); settled.AdvertiseDevice != m.AdvertiseDevice || settled.DataDevice != m.DataDevice {
		n.mu.Lock()
		n.membership.AdvertiseDevice, n.membership.DataDevice = settled.AdvertiseDevice, settled.DataDevice
		m = n.membership
		n.mu.Unlock()
		if err := m.save(n.d.cfg.membershipFile()); err != nil {
			n.d.log.Error("the membership is not saved", "error", err)
		}
	}
	return m.moved(ifs)
}

// move brings an ended node back with its new address.
func (d *Daemon) move(old *node) {
	d.op.Lock()
	defer d.op.Unlock()
	d.mu.Lock()
	left := d.node != old
	d.mu.Unlock()
	if left {
		return
	}
	m, _ := old.whereNow()
	if err := m.save(d.cfg.membershipFile()); err != nil {
		d.log.Error("the node's new address is not saved", "error", err)
	}
	var next *node
	if d.insist(func(context.Context) (err error) {
		next, err = d.openNode(m, old.keeper, old.vault)
		return err
	}) {
		d.startNode(next)
	}
}

// keepRaftAddress has raft reach this manager where it is: whoever moved tells the
// leader, which asks back before it counts on it. It returns once that is so.
func (n *node) keepRaftAddress(ctx context.Context) error {
	for ctx.Err() == nil {
		m := n.snapshot()
		if at := n.manager.addrInRaft(m.NodeID); at == m.AdvertiseAddr.String() {
			return nil
		} else if at != "" { // else it is still joining
			n.d.log.Info("telling the managers this manager's new address", "address", m.AdvertiseAddr, "before", at)
			if err := n.tellAddress(ctx, m); err != nil {
				n.d.log.Warn("the managers do not know this manager's new address yet", "error", err, "retry", moveRetry)
			}
		}
		pause(ctx, moveRetry)
	}
	return nil
}

// tellAddress asks the others, any of which passes it on to the leader, or itself
// when it leads.
func (n *node) tellAddress(ctx context.Context, m membership) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if n.manager.IsLeader() {
		return n.manager.AddVoter(ctx, m.NodeID, m.AdvertiseAddr.String())
	}
	err := errors.New("no other manager is known")
	for _, p := range n.others() {
		if p.NodeID == m.NodeID {
			continue
		}
		if err = n.askToJoin(ctx, p, m); err == nil {
			return nil
		}
	}
	return err
}

func (n *node) askToJoin(ctx context.Context, p swarm.Peer, m membership) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout/3)
	defer cancel()
	return admission.JoinRaft(ctx, n.client, p.Addr, m.AdvertiseAddr.String())
}

// addrInRaft is where raft has a manager; "" if it has none of that ID.
func (m *manager) addrInRaft(id string) string {
	for _, member := range m.Members() {
		if member.ID == id {
			return member.Addr
		}
	}
	return ""
}
