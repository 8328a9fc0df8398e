package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// EdgeTable decides who may speak to whom where the kernel itself forwards for
// containers: what datapath/bpf/overlay.c decides elsewhere.
const EdgeTable = "meshd_edge"

// Edge is what its rules follow from, beside the sets of edgeset.go. Lists are made by Key, so that
// edges compare.
type Edge struct {
	// Port is the tunnel's UDP port.
	Port uint16
	// Networks are the subnets of networks whose containers reach each other, Mesh those of the
	// network that leads to the node, whose addresses on it are Gateways, and to the world.
	Networks, Mesh, Gateways string
	// Sealed are those subnets whose packets only WireGuard devices may bring.
	Sealed string
}

// Our chains. Where packets arrive is decided between connection tracking and translation: who is
// called by a virtual address is so by who may call it.
const (
	edgeArrive = "arrive"
	edgeTunnel = "tunnel"
	edgeCross  = "cross"
	edgeSend   = "send"
	edgeLeave  = "leave"
)

func edgeChains(t *nftables.Table) []*nftables.Chain {
	chain := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority}
	}
	return []*nftables.Chain{
		chain(edgeArrive, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle),
		chain(edgeTunnel, nftables.ChainHookInput, nftables.ChainPriorityRaw),
		chain(edgeCross, nftables.ChainHookForward, nftables.ChainPriorityFilter),
		chain(edgeSend, nftables.ChainHookOutput, nftables.ChainPriorityFilter),
		chain(edgeLeave, nftables.ChainHookPostrouting, nftables.ChainPriorityMangle),
	}
}

// tunnelDevice is link.VXLANName.
const tunnelDevice = "mesh-vx0"

// edgeRule has a comment of its kind and argument, by which it is known again. A kind that is a
// reason, as datapath.Drops has them, counts what it drops.
type edgeRule struct {
	chain, kind, arg string
	exprs            []expr.Any
}

// The kinds by whose arguments an Edge is read back.
const (
	kindFellows = "fellows"
	kindWorld   = "world"
	kindGateway = "gateway"
	kindTunnel  = "unknown-peer"
	kindSealed  = "not-encrypted"
)

func edgeTable() *nftables.Table {
	return &nftables.Table{Name: EdgeTable, Family: nftables.TableFamilyINet}
}

// PutEdge makes the rules follow from e, in one transaction; the sets keep what they have.
func PutEdge(e Edge) error {
	return change("table "+EdgeTable, func(c *nftables.Conn) error {
		t := c.AddTable(edgeTable())
		for _, s := range edgeSets() {
			if err := c.AddSet(s, nil); err != nil {
				return fmt.Errorf("nftables: set %s: %w", s.Name, err)
			}
		}
		chains := map[string]*nftables.Chain{}
		for _, ch := range edgeChains(t) {
			chains[ch.Name] = c.AddChain(ch)
			c.FlushChain(ch)
		}
		for _, r := range e.rules() {
			c.AddRule(&nftables.Rule{
				Table: t, Chain: chains[r.chain], Exprs: r.exprs,
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment()),
			})
		}
		return nil
	})
}

func (r edgeRule) comment() string { return strings.TrimSpace(r.kind + " " + r.arg) }

// DeleteEdge removes the table with its sets; none is no error.
func DeleteEdge() error {
	return change("table "+EdgeTable, func(c *nftables.Conn) error {
		_, err := remove(c, EdgeTable, edgeTable().Family)
		return err
	})
}

// EdgeOf reads what the rules follow from; there: the table is. The zero Edge: they are not as
// PutEdge makes them. Drops counts what they dropped since they were put, by reason.
func EdgeOf() (e Edge, drops map[string]uint64, there bool, err error) {
	c, err := nftables.New()
	if err != nil {
		return e, nil, false, fmt.Errorf("nftables: %w", err)
	}
	t, err := find(c, EdgeTable, edgeTable().Family)
	if err != nil || t == nil {
		return e, nil, false, err
	}
	drops = map[string]uint64{}
	var found []string
	args := map[string][]string{}
	for _, ch := range edgeChains(t) {
		rules, _ := c.GetRules(t, ch) // none of a chain that is missing
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			found = append(found, ch.Name+" "+comment)
			kind, arg, _ := strings.Cut(comment, " ")
			args[kind] = append(args[kind], arg)
			for _, x := range r.Exprs {
				if n, ok := x.(*expr.Counter); ok {
					drops[kind] += n.Packets
				}
			}
		}
	}
	e = Edge{Networks: strings.Join(args[kindFellows], " "), Mesh: strings.Join(args[kindWorld], " "), Gateways: strings.Join(args[kindGateway], " "), Sealed: strings.Join(args[kindSealed], " ")}
	if tunnels := args[kindTunnel]; len(tunnels) > 0 {
		port, _ := strconv.ParseUint(tunnels[0], 10, 16)
		e.Port = uint16(port)
	}
	var want []string
	for _, r := range e.rules() {
		want = append(want, r.chain+" "+r.comment())
	}
	if !slices.Equal(found, want) {
		e = Edge{}
	}
	return e, drops, true, nil
}

// rules in their order; EdgeOf reads chains in the order of edgeChains.
func (e Edge) rules() []edgeRule {
	var out []edgeRule
	add := func(chain, kind, arg string, parts ...[]expr.Any) {
		out = append(out, edgeRule{chain, kind, arg, slices.Concat(parts...)})
	}
	networks, mesh := Prefixes(e.Networks), Prefixes(e.Mesh)
	container, tunnel := from(hostDevices), from(tunnelDevice+"\x00")
	toContainer, toTunnel := to(hostDevices), to(tunnelDevice+"\x00")
	port := strconv.Itoa(int(e.Port))

	add(edgeArrive, "forged-mac", "", container, notSpeaker(setMACs), drop())
	add(edgeArrive, "own-link", "", container, inside(netip.MustParsePrefix("fe80::/10"), source4, source6), discard()) // discovery and the like
	add(edgeArrive, "forged-address", "4", container, isFamily(false), notSpeaker(setAddrs4), drop())
	add(edgeArrive, "forged-address", "6", container, isFamily(true), notSpeaker(setAddrs6), drop())
	add(edgeArrive, kindTunnel, port, container, udpPort(destinationPort, e.Port), drop())
	for _, s := range Prefixes(e.Sealed) {
		add(edgeArrive, kindSealed, s.String(), tunnel, inside(s, source4, source6), drop())
	}
	add(edgeArrive, "entry", "", tunnel, direction(original), markByEntry())
	add(edgeArrive, "return", "", container, direction(reply), markByConnection())
	add(edgeArrive, "answers", "", direction(reply), accept())
	for _, s := range networks {
		add(edgeArrive, kindFellows, s.String(), inside(s, source4, source6), inside(s, destination4, destination6), accept())
	}
	for _, s := range networks {
		add(edgeArrive, "foreign-network", "from "+s.String(), container, inside(s, source4, source6), drop())
		add(edgeArrive, "foreign-network", "to "+s.String(), container, inside(s, destination4, destination6), drop())
	}
	for _, g := range Prefixes(e.Gateways) {
		add(edgeArrive, kindGateway, g.String(), container, inside(g, destination4, destination6), accept())
	}
	for _, s := range mesh {
		add(edgeArrive, "isolated", s.String(), container, inside(s, destination4, destination6), drop())
	}
	for _, s := range mesh {
		add(edgeArrive, kindWorld, s.String(), container, inside(s, source4, source6), accept())
		add(edgeArrive, "ingress", s.String(), tunnel, inside(s, destination4, destination6), accept())
	}
	add(edgeArrive, "foreign-network", "", container, drop())
	add(edgeArrive, "no-endpoint", "", from(ownDevice), drop()) // from the tunnel, or out of WireGuard

	add(edgeTunnel, kindTunnel, port+" 4", udpPort(destinationPort, e.Port), isFamily(false), notPeer(setPeers4, source4, 4), drop())
	add(edgeTunnel, kindTunnel, port+" 6", udpPort(destinationPort, e.Port), isFamily(true), notPeer(setPeers6, source6, 16), drop())

	add(edgeCross, "no-endpoint", "through", tunnel, toTunnel, drop())
	for _, device := range []struct {
		name string
		to   []expr.Any
	}{{"containers", toContainer}, {"tunnel", toTunnel}} {
		add(edgeCross, "answers", device.name, fromOthers(), device.to, direction(reply), accept())
		add(edgeCross, "published", device.name, fromOthers(), device.to, translated(), accept())
		add(edgeCross, "closed", device.name, fromOthers(), device.to, drop())
	}
	add(edgeCross, "answers", "out", tunnel, toOthers(), direction(reply), accept())
	add(edgeCross, "no-endpoint", "out", tunnel, toOthers(), drop())

	for _, s := range networks {
		add(edgeSend, "foreign-network", s.String(), inside(s, destination4, destination6), toOurs(), drop())
	}
	for _, s := range mesh {
		add(edgeSend, "no-endpoint", s.String(), inside(s, destination4, destination6), toOurs(), toOthers(), drop())
	}
	add(edgeLeave, "unmark", "", toTunnel, unmark()) // or the tunnel's own packet would be led back into it
	return out
}
