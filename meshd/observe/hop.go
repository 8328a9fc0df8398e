package observe

import (
	"fmt"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
)

// attachment is a container's interface.
type attachment = overlay.Attachment

// path tells the last part of the way: from this node's kernel to a container.
func (t *tracer) path(who string, p overlay.Path, e protocol.Endpoint, known bool) {
	switch p.Place {
	case overlay.PlaceHere:
		t.here(who, p)
	case overlay.PlaceNode:
		t.there(who, p, e, known)
	case overlay.PlaceSelf:
		t.ok("endpoint", "%s is this node itself", who)
		t.trace.Reaches = true
	case overlay.PlaceNowhere:
		advice := "docker service ps of its service tells whether it runs"
		if known {
			advice = "meshctl net check shows what the kernel lacks; this node's log says why"
		}
		t.broken("endpoint", advice, "%s: nobody has this address (packets are dropped: no-endpoint)", who)
	}
}

func (t *tracer) here(who string, p overlay.Path) {
	if p.Device == "" || !p.Guarded {
		t.broken("endpoint", "meshctl net check shows what the kernel lacks", "%s should be on this node, but its interface is not in place", who)
		return
	}
	t.ok("endpoint", "%s is on this node, interface %s", who, p.Device)
	t.trace.Reaches = true
}

func (t *tracer) there(who string, p overlay.Path, e protocol.Endpoint, known bool) {
	node := t.view.node(e.NodeID)
	name := p.Node.String()
	if known {
		name = fmt.Sprintf("node %s at %s", nodeName(node), p.Node)
	}
	t.ok("endpoint", "%s is on %s", who, name)
	switch {
	case known && node.Down:
		t.broken("tunnel", "docker node ls shows its state; new connections go to other nodes", "%s is down", name)
	case known && node.DataAddr != p.Node:
		t.broken("tunnel", "meshctl net check shows what the kernel lacks", "the kernel sends to %s, but the node's address is %s", p.Node, node.DataAddr)
	case !p.Peer:
		t.broken("tunnel", "meshctl net check shows what the kernel lacks", "%s is not among the nodes that packets are taken from: answers are dropped (unknown-peer)", name)
	case !p.Tunnel && !p.Encrypted:
		t.broken("tunnel", "meshd makes it anew within seconds; this node's log says why if not", "the tunnel device mesh-vx0 is missing or down")
	case p.Encrypted && !p.Sealed:
		t.broken("encryption", "the log of its meshd says why", "%s has told no WireGuard key yet, and packets of this network travel encrypted or not at all (dropped: not-encrypted)", name)
	case p.NoWay != "":
		t.broken("tunnel", "ip route get "+p.Node.String(), "this machine has no way to %s: %s", name, p.NoWay)
	default:
		t.tunnel(name, p)
	}
}

func (t *tracer) tunnel(name string, p overlay.Path) {
	via := ""
	if p.Way.Gateway.IsValid() {
		via = " through " + p.Way.Gateway.String()
	}
	if p.Direct {
		t.ok("direct", "to %s on device %s, without the tunnel", name, p.Way.Device)
		t.trace.Reaches = true
		return
	}
	what := "tunnel"
	if p.Encrypted {
		what = "encryption"
	}
	t.ok(what, "to %s on device %s%s, from %s", name, p.Way.Device, via, p.Way.Source)
	if need := p.MTU + p.Overhead; p.Way.MTU > 0 && p.Way.MTU < need {
		t.broken("mtu", fmt.Sprintf("raise the MTU of the way to %s to %d", p.Node, need),
			"packets of up to %d bytes plus %d of the %s do not fit the way's MTU of %d: large transfers stall", p.MTU, p.Overhead, what, p.Way.MTU)
		return
	}
	t.ok("mtu", "%d bytes for containers plus %d of the %s, the way takes %d", p.MTU, p.Overhead, what, p.Way.MTU)
	t.trace.Reaches = true
}
