package dispatcher

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// turnTime is the longest that one session keeps others from beginning: a node that
// takes its picture slowly holds up nobody.
const turnTime = 250 * time.Millisecond

// turns paces the beginnings of sessions, which cost as much as the cluster is
// large. When those of hundreds of nodes begin at once, since another manager went, the
// rest of this manager must get its share of the processors, heartbeats first of all.
type turns chan struct{}

// newTurns lets as many begin together as there are processors to work for them.
func newTurns() turns { return make(turns, runtime.GOMAXPROCS(0)) }

// begin sends the first picture when it is the session's turn; heartbeats keep the node
// patient until then.
func (d *Dispatcher) begin(ctx context.Context, s *session, send func(*protocol.Message) error) error {
	idle := time.NewTimer(d.untilBeat())
	defer idle.Stop()
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case d.turns <- struct{}{}:
			waiting = false
		case <-idle.C:
			if err := send(d.pulse); err != nil {
				return err
			}
			idle.Reset(d.untilBeat())
		}
	}
	leave := sync.OnceFunc(func() { <-d.turns })
	defer leave()
	defer time.AfterFunc(turnTime, leave).Stop()
	var m *protocol.Message
	d.cfg.Store.View(func(v *store.View) { m = s.next(v, d.cache) })
	m.Heartbeat = d.cfg.Heartbeat
	return send(m)
}
