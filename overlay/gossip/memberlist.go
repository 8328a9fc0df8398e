package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sys/unix"
)

// Timers. With n nodes a dead one is probed after about 1.6 probe intervals,
// suspected one interval later, and given up after suspicion x max(1, lg n)
// intervals more if a second node agrees, after patience times that if none does. A
// node that is merely slow hears of the suspicion within one or two gossip intervals
// and refutes it. Measured (TestMeasure, ten nodes in one process, both cores of the
// machine busy twice over): a death seen everywhere after 1.3-1.6 s and no false
// alarm; with suspicion 2, 1.1-1.8 s and many; with probes every 300 ms, 2.1 s.
const (
	probeInterval  = 200 * time.Millisecond
	probeTimeout   = 100 * time.Millisecond
	gossipInterval = 60 * time.Millisecond
	suspicion      = 3
	patience       = 2
	// slowdown is how far Lifeguard stretches the probes of a node that notices its
	// own slowness.
	slowdown = 4
	// streamTimeout bounds the exchange of whole lists.
	streamTimeout = time.Second
	// connectTimeout bounds the check of a machine. A lost SYN is repeated after a
	// second only (RFC 6298), so waiting longer would hardly help.
	connectTimeout = 300 * time.Millisecond
	// syncInterval is how often whole lists are exchanged with one node, for what
	// gossip lost; memberlist stretches it from 33 nodes on.
	syncInterval = 15 * time.Second
	// reclaim is how long a node must be dead before it may come back elsewhere.
	reclaim = time.Second
)

func (g *Gossip) config(ring *memberlist.Keyring) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = g.cfg.NodeID
	c.BindAddr, c.BindPort = g.cfg.Addr.Addr().String(), int(g.cfg.Addr.Port())
	c.AdvertiseAddr, c.AdvertisePort = c.BindAddr, c.BindPort
	c.Keyring = ring
	c.ProbeInterval, c.ProbeTimeout = probeInterval, probeTimeout
	c.GossipInterval = gossipInterval
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = suspicion, patience
	c.AwarenessMaxMultiplier = slowdown
	c.TCPTimeout, c.PushPullInterval = streamTimeout, syncInterval
	c.DeadNodeReclaimTime = reclaim
	c.Events = bell{g.wake}
	c.Delegate = told{leaving: &g.leaving}
	c.Logger = log.New(debugLog{g.log}, "", 0)
	if g.cfg.tune != nil {
		g.cfg.tune(c)
	}
	return c
}

// bell is the delegate: it is called under memberlist's locks and only wakes the loop.
type bell struct{ c chan struct{} }

func (b bell) NotifyJoin(*memberlist.Node)   { signal(b.c) }
func (b bell) NotifyLeave(*memberlist.Node)  { signal(b.c) }
func (b bell) NotifyUpdate(*memberlist.Node) { signal(b.c) }

// told is what this node tells of itself: whether it leaves.
type told struct{ leaving *atomic.Bool }

// leavingMeta is what a node that leaves says.
const leavingMeta = "leaving"

// NodeMeta implements memberlist.Delegate.
func (t told) NodeMeta(int) []byte {
	if t.leaving.Load() {
		return []byte(leavingMeta)
	}
	return nil
}

func (told) NotifyMsg([]byte)                {}
func (told) GetBroadcasts(int, int) [][]byte { return nil }
func (told) LocalState(bool) []byte          { return nil }
func (told) MergeRemoteState([]byte, bool)   {}

// debugLog takes memberlist's log, of which all that matters is said elsewhere.
type debugLog struct{ log *slog.Logger }

func (d debugLog) Write(line []byte) (int, error) {
	d.log.Debug(strings.TrimSpace(string(line)))
	return len(line), nil
}

// leaving are those that are there, and say that they leave.
func leaving(list *memberlist.Memberlist) map[string]bool {
	out := map[string]bool{}
	for _, n := range list.Members() {
		if string(n.Meta) == leavingMeta {
			out[n.Name] = true
		}
	}
	return out
}

func alive(list *memberlist.Memberlist) map[string]bool {
	out := map[string]bool{}
	for _, n := range list.Members() {
		out[n.Name] = true
	}
	return out
}

// setKeys makes the ring hold these keys, the first of them in use: add, then use,
// then remove, so that there is no moment without a key that the others know.
func setKeys(ring *memberlist.Keyring, keys [][]byte) error {
	if slices.EqualFunc(ring.GetKeys(), keys, bytes.Equal) {
		return nil
	}
	for _, k := range keys {
		if err := ring.AddKey(k); err != nil {
			return fmt.Errorf("add gossip key: %w", err)
		}
	}
	if err := ring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("use gossip key: %w", err)
	}
	for _, old := range slices.Clone(ring.GetKeys()) {
		if slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, old) }) {
			continue
		}
		if err := ring.RemoveKey(old); err != nil {
			return fmt.Errorf("remove gossip key: %w", err)
		}
	}
	return nil
}

// reach tries a TCP connect: whether it is accepted or refused, a kernel answered.
func reach(ctx context.Context, addr netip.AddrPort) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return errors.Is(err, unix.ECONNREFUSED)
	}
	return conn.Close() == nil
}

// The joiner's pauses and how many it calls at a time.
const (
	firstSeek  = 50 * time.Millisecond
	seekFactor = 2
	calls      = 3
	// seekPerMember keeps the calls to one missing node below fifty a second,
	// whatever the size of the cluster.
	seekPerMember = 20 * time.Millisecond
	leastSeek     = time.Second
)

// join calls the members that are missing, for as long as there are any: at the
// start, and after a partition that lasted longer than memberlist remembers.
func (g *Gossip) join(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := firstSeek
	var w wait
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.seek:
			pause = firstSeek
		case <-timer.C:
		}
		_, members := g.wishes()
		if list := g.open(); list != nil {
			lacking := missing(g.cfg.NodeID, members, alive(list))
			if w.tooLong(len(lacking), time.Now()) {
				g.log.Warn("nodes take no part in gossip: if they die, only managers will notice; is the port open between the nodes, TCP and UDP?",
					"port", g.cfg.Addr.Port(), "missing", len(lacking), "one", lacking[0].ID)
			}
			g.call(ctx, list, lacking)
		}
		timer.Reset(pause + rand.N(pause))
		pause = min(seekFactor*pause, max(leastSeek, time.Duration(len(members))*seekPerMember))
	}
}

// call tries some of the missing; each that answers tells of all that it knows.
func (g *Gossip) call(ctx context.Context, list *memberlist.Memberlist, missing []Member) {
	rand.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
	for _, m := range missing[:min(calls, len(missing))] {
		// memberlist's own calls end by timeout only: first see that somebody is there.
		tctx, cancel := context.WithTimeout(ctx, connectTimeout)
		there := g.cfg.Reach(tctx, m.Addr)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if !there || alive(list)[m.ID] {
			continue
		}
		if _, err := list.Join([]string{m.ID + "/" + m.Addr.String()}); err != nil {
			g.log.Debug("a node takes no part in gossip yet", "node", m.ID, "address", m.Addr, "error", err)
		}
	}
}
