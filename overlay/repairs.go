package overlay

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/meshd/meshd/overlay/link"
)

// repairs counts the objects put right after somebody else changed them.
type repairs struct {
	mu     sync.Mutex
	byKind map[string]uint64
}

func (r *repairs) add(kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byKind == nil {
		r.byKind = map[string]uint64{}
	}
	r.byKind[kind]++
}

// Repairs counts what was put right in the kernel after somebody else had
// changed it, by kind of object, since this process began.
func (o *Overlay) Repairs() map[string]uint64 {
	o.repairs.mu.Lock()
	defer o.repairs.mu.Unlock()
	return maps.Clone(o.repairs.byKind)
}

// drifted gives the objects that are not as we left them. Without a former
// reading nothing has drifted: what an earlier process left is taken over.
func drifted(before, after objects) map[object]bool {
	out := map[object]bool{}
	if before == nil {
		return out
	}
	for o, v := range before {
		if after[o] != v {
			out[o] = true
		}
	}
	for o := range after {
		if _, known := before[o]; !known {
			out[o] = true
		}
	}
	return out
}

// mostNamed bounds a log line.
const mostNamed = 10

// noteRepairs counts and logs those operations that undid another's change and
// got done. o.mu is held.
func (o *Overlay) noteRepairs(drift map[object]bool, ops []op) {
	var names []string
	for _, op := range ops {
		have, there := o.held[op.object]
		done := op.remove && !there || !op.remove && there && have == op.value
		if !drift[op.object] || !done {
			continue
		}
		kind, name := nameOf(op.object)
		o.repairs.add(kind)
		what := "put back " + name
		if op.remove {
			what = "removed " + name
		}
		names = append(names, what)
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	shown := names[:min(len(names), mostNamed)]
	o.cfg.Logger.Warn("somebody changed this node's overlay; it is repaired", "repairs", len(names), "what", strings.Join(shown, ", "))
}

// rejoin makes the interfaces anew that were deleted under running containers,
// and remembers those that are there. o.mu is held.
func (o *Overlay) rejoin() error {
	s := o.desired()
	f, err := o.facts(s, false)
	if err != nil {
		return err
	}
	now := map[string]port{}
	for _, p := range f.ports {
		if !p.idle && p.nsid >= 0 {
			now[p.ID] = p
		}
		delete(o.ports, p.ID)
	}
	var errs []error
	for id, p := range o.ports { // not there any more, and nobody detached it
		done, err := o.kernel.rejoinPort(p, attachmentMTU(s, f, p.Attachment), defaultRoutes(s, p))
		if err != nil {
			now[id] = p // tried again
			errs = append(errs, fmt.Errorf("put back the interface of %s: %w", p.TaskID, err))
		}
		if done {
			o.repairs.add("interface")
			o.cfg.Logger.Warn("somebody deleted a container's interface; it is repaired", "interface", link.HostName(id), "task", p.TaskID, "addresses", p.Addrs)
		}
	}
	o.ports = now
	return errors.Join(errs...)
}

// defaultRoutes are the gateways of a container's interface on the mesh network.
func defaultRoutes(s State, p port) []netip.Addr {
	var out []netip.Addr
	for _, a := range p.Addrs {
		if g := sourceFor(s, p.VNI, a); g.IsValid() {
			out = append(out, g)
		}
	}
	return out
}

// nameOf says what an object is, for people: its kind, and kind and name.
func nameOf(o object) (kind, name string) {
	switch o := o.(type) {
	case sysctlObject:
		return "sysctl", "sysctl " + o.path
	case vxlanObject:
		return "tunnel", "tunnel device"
	case gatewayDevObject:
		return "gateway", "gateway device"
	case gatewayObject:
		return "gateway", "gateway address " + o.addr.String()
	case settingsObject:
		return "settings", "data path settings"
	case selfObject:
		return "settings", "this node's MAC address in the tunnel"
	case portObject:
		return "interface", "interface " + link.HostName(o.id) + " up"
	case subnetObject:
		return "subnet", "subnet of " + o.key.Addr.Netip().String()
	case encryptedObject:
		return "encryption", fmt.Sprintf("encryption of network %d", o.vni)
	case cipherObject:
		return "encryption", "encrypted way to peer " + o.addr.Netip().String()
	case insideObject:
		return "encryption", "tunnel address of a peer inside of WireGuard " + o.addr.Netip().String()
	case endpointObject:
		return "endpoint", fmt.Sprintf("endpoint %s on network %d", o.key.Addr.Netip(), o.key.VNI)
	case ifaceObject:
		return "interface", fmt.Sprintf("interface rule of device %d", o.ifindex)
	case peerObject:
		return "peer", "peer " + o.addr.Netip().String()
	case onLinkObject:
		return "direct", "peer on the link " + o.addr.Netip().String()
	case directObject:
		return "direct", "direct way to peer " + o.addr.Netip().String()
	case switchesObject:
		return "settings", "data path switches"
	case tunnelMTUObject:
		return "mtu", "the tunnel's MTU in the data path"
	case slotObject:
		return "program", fmt.Sprintf("forwarding half %d in the program array", o.slot)
	case hookObject:
		return "program", fmt.Sprintf("program %s on device %d", o.hook.Program, o.hook.Ifindex)
	case neighbourObject:
		return "neighbour", fmt.Sprintf("neighbour %s on device %d", o.key.Addr, o.key.Ifindex)
	case insideRoute:
		return "encryption", "way to a peer inside of WireGuard " + o.to.String()
	case routeObject:
		return "route", "route to " + o.to.String()
	case masqueradeObject:
		return "masquerade", "masquerading rules"
	case untrackedObject:
		return "untracked", "rules that keep the tunnel out of connection tracking"
	case mtuObject:
		return "mtu", "MTU of interface " + link.HostName(o.id)
	case acceptObject:
		return "accept", "rules in DOCKER-USER"
	case admitObject:
		return "admit", "rule for published ports at the end of the input hook"
	case edgeObject:
		return "rules", "rules of who may speak to whom"
	case speakerObject:
		return "interface", fmt.Sprintf("address %s of interface %s", o.speaker.Addr, o.speaker.Device)
	case silentObject:
		return "interface", "MAC address of interface " + link.HostName(o.id)
	case hopObject:
		return "route", fmt.Sprintf("route to %s in table %d", o.key.To, o.key.Table)
	case ruleObject:
		return "route", fmt.Sprintf("rule for routing table %d", o.rule.Table())
	case arriveObject:
		return "rules", "rule that takes frames from the tunnel"
	case nodeObject:
		return "peer", "peer " + o.peer.Addr.String()
	default:
		kind = strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", o), "overlay."), "Object")
		return kind, fmt.Sprintf("%s %v", kind, o)
	}
}
