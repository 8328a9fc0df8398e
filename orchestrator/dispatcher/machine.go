package dispatcher

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

const (
	// DaemonGrace is how much longer than its lease a node may be silent while its
	// machine answers: then only its daemon is gone, for an upgrade or by a crash,
	// and its tasks run on.
	DaemonGrace = 10 * time.Second
	// answerTimeout bounds the question; it delays the replacement of a dead
	// machine's tasks.
	answerTimeout = 250 * time.Millisecond
)

// Answers says whether a machine is there: a port where nothing listens refuses,
// and that is an answer. A dead one, or one that is cut off, is silent.
func Answers(ctx context.Context, addr netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(addr, discardPort).String())
	if err == nil {
		conn.Close()
		return true
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// discardPort is the one where nothing, or what does no harm, listens (RFC 863).
const discardPort = 9

// spared are the nodes that are to be given up, but whose machine answers.
func (d *Dispatcher) spared(ctx context.Context, now time.Time) map[string]bool {
	if d.cfg.Answers == nil {
		return nil
	}
	silent := map[string]netip.Addr{}
	d.cfg.Store.View(func(v *store.View) {
		for _, n := range v.Nodes() {
			_, since := d.ledger.heard(n.ID, now)
			silence := now.Sub(since)
			if n.Status.State == swarm.NodeStateReady && n.DataAddr.IsValid() && silence > d.cfg.Lease && silence <= d.cfg.Lease+DaemonGrace {
				silent[n.ID] = n.DataAddr
			}
		}
	})
	var mu sync.Mutex
	var asked sync.WaitGroup
	out := map[string]bool{}
	for id, addr := range silent {
		asked.Go(func() {
			if d.cfg.Answers(ctx, addr) {
				mu.Lock()
				out[id] = true
				mu.Unlock()
			}
		})
	}
	asked.Wait()
	return out
}
