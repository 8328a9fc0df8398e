// Package doctor says what is wrong with a machine and its cluster, and what to do about it. It only looks.
//
// A machine is examined with or without a daemon (Machine); the ways between nodes are tried by all of them at the same time, and judged
// here from what each of them tells (Judge).
package doctor

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meshd/meshd/overlay"
)

// Level is how bad a finding is.
type Level string

// The levels. What is unseen takes more rights than the examiner had, or a part that does not run.
const (
	OK      Level = "ok"
	Problem Level = "problem"
	Unseen  Level = "unseen"
)

// Finding is one thing that was looked at.
type Finding struct {
	// Check is what was looked at: a word or two.
	Check string
	Level Level
	Says  string
	// Advice is what to do; empty if all is well.
	Advice string `json:",omitempty"`
}

func fine(check, says string, args ...any) Finding {
	return Finding{Check: check, Level: OK, Says: fmt.Sprintf(says, args...)}
}

func problem(check, advice, says string, args ...any) Finding {
	return Finding{Check: check, Level: Problem, Says: fmt.Sprintf(says, args...), Advice: advice}
}

func unseen(check string, why any) Finding {
	return Finding{Check: check, Level: Unseen, Says: fmt.Sprint(why), Advice: "run it as root on this machine"}
}

// Way is how a node reached another one.
type Way struct {
	// Peer is the other's ID, Addr its address for tunnels.
	Peer string
	Addr netip.Addr
	// Control, GossipTCP and GossipUDP are why the peer's ports did not answer; empty if they did, or are not asked of it.
	Control, GossipTCP, GossipUDP string `json:",omitempty"`
	// Arrived is what came from the peer through the tunnel's port.
	Arrived overlay.Arrival
}

// Report is what one node says.
type Report struct {
	// Node is its ID, Hostname its name; both may be empty outside a swarm.
	Node, Hostname string
	// Time is the node's clock at the end of its examination.
	Time     time.Time
	Findings []Finding
	Ways     []Way
	// Error says why the node gave no report; the rest is empty then.
	Error string `json:",omitempty"`
}

// Reports is the whole examination.
type Reports struct {
	Reports []Report
	// Cluster are the findings about all nodes together.
	Cluster []Finding
}

// Name is what people call the node.
func (r Report) Name() string { return cmp.Or(r.Hostname, r.Node, "this machine") }

// skewLimit is by how much nodes' clocks may differ; it includes what the answer took on its way.
const skewLimit = 5 * time.Second

// Skew compares a node's clock with this one's.
func Skew(r Report, now time.Time) Finding {
	skew := r.Time.Sub(now).Abs()
	if skew > skewLimit {
		return problem("clock", "set both machines' clocks by NTP: certificates, schedules and logs depend on them",
			"it differs by %v from the manager's", skew.Round(time.Second))
	}
	return fine("clock", "it differs by less than %v from the manager's", skewLimit)
}

// DataPath says what carries a node's packets, and what is lost without eBPF where nobody asked for that.
func DataPath(driver overlay.Driver, why string) Finding {
	f := fine("data path", "%s, %s", driver, why)
	if driver == overlay.DriverBridge {
		f.Advice = "docs/networking.md says what works otherwise without eBPF"
	}
	return f
}

// certificateWarning is how long before its end a certificate must have been renewed: it is at half of its life.
const certificateWarning = 7 * 24 * time.Hour

// Certificate says whether a node's certificate holds.
func Certificate(expires, now time.Time) Finding {
	left := expires.Sub(now)
	if left < certificateWarning {
		return problem("certificate", "it is renewed at half of its life: see why the node's meshd cannot reach a manager (its log), and whether its clock is right",
			"it ends at %s", expires.Format(time.RFC3339))
	}
	return fine("certificate", "it holds until %s", expires.Format(time.DateOnly))
}

// Encryption is about the ways that are encrypted or none: to how many nodes there are
// such, and to which there is no session.
func Encryption(silent []string, all int) []Finding {
	var out []Finding
	for _, name := range silent {
		out = append(out, problem("encryption", "open the UDP ports 51820 and 51821 (meshd --wireguard-port) between them; packets of encrypted networks wait for no other way",
			"no WireGuard session with %s", name))
	}
	if all > 0 && len(out) == 0 {
		out = append(out, fine("encryption", "WireGuard sessions with all %d nodes that encrypted networks lead to", all))
	}
	return out
}

// Quorum says how many managers may still be lost.
func Quorum(managers, reachable int, leader bool) Finding {
	need := managers/2 + 1
	switch {
	case !leader || reachable < need:
		return problem("quorum", "bring managers back; if they are lost for good: meshctl swarm init --force-new-cluster on one of those left",
			"%d of %d managers can be reached, %d are needed: nothing can be changed", reachable, managers, need)
	case reachable < managers:
		return problem("quorum", "bring them back, or demote and remove them", "%d of %d managers cannot be reached", managers-reachable, managers)
	}
	if says, advice := Managers(managers); says != "" {
		return problem("managers", advice, "%s", says)
	}
	return fine("quorum", "%d managers agree; %d may be lost", managers, managers-need)
}

// Managers says whether it is a good number of managers; empty if so.
func Managers(count int) (says, advice string) {
	const most = 7
	lost := count - (count/2 + 1)
	switch {
	case count == 2:
		return "2 managers: the loss of either stops all changes", "add a third, or demote one"
	case count > most:
		return fmt.Sprintf("%d managers: each change has to reach more than half of them", count),
			fmt.Sprintf("demote some: %d survive the loss of %d", most, most/2)
	case count > 0 && count%2 == 0:
		return fmt.Sprintf("%d managers survive the loss of %d, as %d would", count, lost, count-1), "add one, or demote one"
	}
	return "", ""
}

// Judge looks at the ways between all nodes that gave a report.
func Judge(reports []Report, tunnelPort, gossipPort uint16) []Finding {
	names := map[string]string{}
	for _, r := range reports {
		if r.Error == "" {
			names[r.Node] = r.Name()
		}
	}
	var out []Finding
	ways := 0
	for _, r := range reports {
		for _, w := range r.Ways {
			from, known := names[w.Peer]
			if !known {
				continue // it says itself why it gave no report
			}
			ways++
			out = append(out, judgeWay(r.Name(), from, w, tunnelPort, gossipPort)...)
		}
	}
	if len(out) == 0 && ways > 0 {
		out = append(out, fine("ways", "all %d ways between nodes are open: control, gossip, overlay", ways))
	}
	slices.SortStableFunc(out, func(a, b Finding) int { return cmp.Compare(a.Check, b.Check) })
	return out
}

// judgeWay is about what node reached of peer, and what arrived from it.
func judgeWay(node, peer string, w Way, tunnelPort, gossipPort uint16) (out []Finding) {
	add := func(check, advice, says string, args ...any) {
		out = append(out, problem(check, advice, "%s -> %s: "+says, append([]any{node, peer}, args...)...))
	}
	if w.Control != "" {
		add("control", "open TCP port 2377 of "+peer+" for the nodes", "%s", w.Control)
	}
	if w.GossipTCP != "" {
		add("gossip", fmt.Sprintf("open TCP port %d between them", gossipPort), "TCP: %s", w.GossipTCP)
	}
	if w.GossipUDP != "" {
		add("gossip", fmt.Sprintf("open UDP port %d between them", gossipPort), "UDP: %s", w.GossipUDP)
	}
	// What arrived went the other way.
	switch {
	case !w.Arrived.Small && !w.Arrived.Full:
		out = append(out, problem("overlay", fmt.Sprintf("open UDP port %d between them: packet filters of both machines, and what lies between", tunnelPort),
			"%s -> %s: no tunnel packet arrives", peer, node))
	case !w.Arrived.Full:
		out = append(out, problem("MTU", "give all nodes' interfaces the MTU that the network between them takes",
			"%s -> %s: %v", peer, node, w.Arrived))
	}
	return out
}

// Better takes from a later examination what it found open.
func Better(reports, later []Report) {
	for i := range min(len(reports), len(later)) {
		for j := range min(len(reports[i].Ways), len(later[i].Ways)) {
			have, now := &reports[i].Ways[j], later[i].Ways[j]
			if have.Peer != now.Peer {
				continue
			}
			have.Arrived.Small = have.Arrived.Small || now.Arrived.Small
			have.Arrived.Full = have.Arrived.Full || now.Arrived.Full
			have.Arrived.Size = cmp.Or(now.Arrived.Size, have.Arrived.Size)
			for why, then := range map[*string]string{&have.Control: now.Control, &have.GossipTCP: now.GossipTCP, &have.GossipUDP: now.GossipUDP} {
				if then == "" {
					*why = ""
				}
			}
		}
	}
}
