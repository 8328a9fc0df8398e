package observe

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshd/meshd/orchestrator/dispatcher"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
)

// Report is what a comparison of desired and actual found on one node.
type Report struct {
	// Node is the node's ID, Hostname its name if the managers know one.
	Node, Hostname string
	// DataPath says which driver carries packets, and why that.
	DataPath string
	// Networks and Tasks are how many of them the node was told of.
	Networks, Tasks int
	Differences     []Difference
	// Ejected are tasks that this node leads no new connections to for a while,
	// because they failed. That is no difference.
	Ejected []Ejected
	// Error says why the node gave no report; the rest is empty then.
	Error string `json:",omitempty"`
}

// Reports are those of the nodes that could be asked.
type Reports struct {
	Reports []Report
	// Partial: the node asked is no manager, and knows of itself only.
	Partial bool
}

// Lags are what holds back the nodes that a manager watches: those that have their
// session with it. All managers together watch all nodes.
type Lags struct {
	// Watched are the nodes' IDs.
	Watched []string
	Lags    []dispatcher.Lag
}

// Ejected is a task that failed.
type Ejected struct {
	Service, Network string
	// Task is empty if the managers do not know it any more.
	Task    string
	Addr    netip.Addr
	Why     string
	Seconds int // until it gets connections again
}

// Difference is one thing that is not as the managers want it.
type Difference struct {
	// Part is overlay, balancer, resolver, node (what the node has not got to yet), or
	// manager (what it waits for other nodes to acknowledge).
	Part, Kind, What string
	// Want and Have are for people.
	Want, Have string
}

// settleTime is how long a difference must last: what is being changed at the
// moment of the look is no fault.
const settleTime = 300 * time.Millisecond

// probeTime is how long an address of the resolver may take to answer.
const probeTime = time.Second

// Check compares what should be with what the kernel holds. It looks twice when
// it finds differences, and reports those that last.
func (o *Observer) Check(ctx context.Context) (Report, error) {
	report, err := o.compare(ctx)
	if err != nil || len(report.Differences) == 0 {
		return report, err
	}
	select {
	case <-ctx.Done():
		return report, ctx.Err()
	case <-time.After(settleTime):
	}
	again, err := o.compare(ctx)
	if err != nil {
		return report, err
	}
	again.Differences = slices.DeleteFunc(again.Differences, func(d Difference) bool {
		return !slices.ContainsFunc(report.Differences, func(old Difference) bool {
			return old.Part == d.Part && old.Kind == d.Kind && old.What == d.What
		})
	})
	return again, nil
}

func (o *Observer) compare(ctx context.Context) (Report, error) {
	v, err := o.told()
	if err != nil {
		return Report{}, err
	}
	r := Report{Node: v.Self, DataPath: o.DataPath, Hostname: v.node(v.Self).Hostname, Networks: len(v.Networks), Tasks: len(v.Tasks), Differences: append(behind(v), o.heldBack(v)...)}
	r.Differences = append(r.Differences, missingInterfaces(v, o.Overlay.Attachments())...)
	r.Differences = append(r.Differences, narrow(v, o.Overlay.TunnelLimit())...)
	r.Differences = append(r.Differences, o.overlapping(v)...)
	r.Differences = append(r.Differences, o.silent(v)...)
	fromOverlay, err := o.Overlay.Differences(v.Desired.Overlay)
	if err != nil {
		return r, fmt.Errorf("compare the overlay: %w", err)
	}
	for _, d := range fromOverlay {
		r.Differences = append(r.Differences, Difference{"overlay", d.Kind, d.What, d.Want, d.Have})
	}
	fromBalancer, err := o.Keeper.Differences(v.Desired.IPVS)
	if err != nil {
		return r, fmt.Errorf("compare the load balancer: %w", err)
	}
	for _, d := range fromBalancer {
		r.Differences = append(r.Differences, Difference{"balancer", d.Kind, d.What, d.Want, d.Have})
	}
	for _, d := range o.Resolver.Differences(v.Desired.DNS) {
		r.Differences = append(r.Differences, Difference{"resolver", "name", d.What, d.Want, d.Have})
	}
	taken, err := o.takenPorts(v)
	if err != nil {
		return r, err
	}
	r.Differences = append(r.Differences, taken...)
	for addr, err := range o.Resolver.Probe(ctx, probeTime) {
		r.Differences = append(r.Differences, Difference{"resolver", "listener", "resolver at " + addr.String(), "answers", err.Error()})
	}
	r.Ejected = o.ejected(v)
	slices.SortFunc(r.Differences, func(a, b Difference) int {
		return cmp.Or(strings.Compare(a.Part, b.Part), strings.Compare(a.Kind, b.Kind), strings.Compare(a.What, b.What))
	})
	return r, nil
}

// takenPorts lists the published ports that a process of the node has, too.
func (o *Observer) takenPorts(v View) ([]Difference, error) {
	if o.Sockets == nil {
		return nil, nil
	}
	sockets, err := o.Sockets()
	if err != nil {
		return nil, err
	}
	var out []Difference
	for _, c := range Clashes(v.Desired.IPVS, sockets) {
		out = append(out, Difference{"node", "port", c.String(), "for service " + c.Service + " alone", c.Process + " listens on it"})
	}
	return out, nil
}

// overlapping lists the networks whose tasks the node rejects, since it reaches their
// addresses in another way.
func (o *Observer) overlapping(v View) []Difference {
	if o.Overlap == nil {
		return nil
	}
	var out []Difference
	for _, n := range v.Networks {
		if err := o.Overlap(n); err != nil {
			out = append(out, Difference{"node", "route", "network " + n.Name, "no other way to its addresses", err.Error()})
		}
	}
	return out
}

// silent lists the nodes that cannot be reached encrypted: nothing is sent to them in
// the clear instead.
func (o *Observer) silent(v View) []Difference {
	var out []Difference
	for _, p := range o.Overlay.EncryptedPeers() {
		if !p.Unreached(o.now()) {
			continue
		}
		have := "it has told no key that this node has one for"
		switch {
		case p.Keyed && p.Handshake.IsZero():
			have = fmt.Sprintf("none yet, at %s", p.Endpoint)
		case p.Keyed:
			have = fmt.Sprintf("the last one %s ago, at %s", o.now().Sub(p.Handshake).Round(time.Second), p.Endpoint)
		}
		out = append(out, Difference{"overlay", "encryption", "way to node " + nodeName(v.node(p.ID)), "a handshake every two minutes", have})
	}
	return out
}

func (o *Observer) ejected(v View) []Ejected {
	var out []Ejected
	for _, e := range o.Keeper.Ejected() {
		n, _ := v.network(e.Key.VNI)
		task, _ := v.endpoint(e.Key.VNI, e.Addr)
		out = append(out, Ejected{
			Service: e.Service, Network: n.Name, Task: task.Name, Addr: e.Addr,
			Why: fmt.Sprintf("port %d/%s %s %d times in a row", e.Asked, protocolName(e.Protocol), e.Failure, e.Count), Seconds: int(e.Until.Sub(o.now()).Seconds()) + 1,
		})
	}
	return out
}

// behind lists the networks of which the kernel holds less than was told.
func behind(v View) []Difference {
	var out []Difference
	for _, n := range v.Networks {
		if held := v.Held[n.ID]; held < n.Revision {
			out = append(out, Difference{
				"node", "revision", "network " + n.Name, fmt.Sprintf("revision %d", n.Revision), fmt.Sprintf("revision %d", held),
			})
		}
	}
	return out
}

// heldBack lists what nodes have not acknowledged to this manager.
func (o *Observer) heldBack(v View) []Difference {
	var out []Difference
	for _, l := range o.Member().Lags {
		out = append(out, Difference{
			"manager", "acknowledgement", fmt.Sprintf("network %s on %s", v.networkCalled(l.Network), nodeName(v.node(l.Node))),
			fmt.Sprintf("revision %d", l.Revision), fmt.Sprintf("revision %d, for %.1f s", l.Held, o.now().Sub(l.Since).Seconds()),
		})
	}
	return out
}

// leastIPv6 is what every way of IPv6 has to take, in bytes (RFC 8200, 5).
const leastIPv6 = 1280

// narrow says that packets of IPv6 do not fit into the tunnel to other nodes.
func narrow(v View, limit int) []Difference {
	six := slices.ContainsFunc(v.Networks, func(n protocol.Network) bool {
		return slices.ContainsFunc(n.Subnets, func(s protocol.Subnet) bool { return s.Prefix.Addr().Is6() })
	})
	if limit == 0 || limit >= leastIPv6 || !six {
		return nil
	}
	return []Difference{{
		"node", "mtu", "tunnel over IPv6 to the other nodes", fmt.Sprintf("packets of %d bytes, as IPv6 needs: an underlay of %d", leastIPv6, leastIPv6+overheadIPv6),
		fmt.Sprintf("packets of %d bytes: longer datagrams of IPv6 are lost between nodes on different links", limit),
	}}
}

// overheadIPv6 is what a tunnel over IPv6 adds to each packet, in bytes.
const overheadIPv6 = 70

// missingInterfaces lists the addresses that other nodes send to this one for,
// and that no container's interface here has.
func missingInterfaces(v View, attached []overlay.Attachment) []Difference {
	type place struct {
		vni  uint32
		addr netip.Addr
	}
	here := map[place]bool{}
	for _, a := range attached {
		for _, p := range a.Addrs {
			here[place{a.VNI, p.Addr()}] = true
		}
	}
	var out []Difference
	for _, n := range v.Networks {
		for _, e := range n.Endpoints {
			if e.NodeID != v.Self || e.State != protocol.EndpointServing {
				continue
			}
			for _, a := range e.Addrs {
				if !here[place{n.VNI, a}] {
					out = append(out, Difference{"overlay", "attachment", fmt.Sprintf("%s at %s on network %s", e.Name, a, n.Name), "an interface on this node", "none"})
				}
			}
		}
	}
	return out
}
