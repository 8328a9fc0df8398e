package dispatcher

import (
	"context"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
)

func (w *world) watched(d *Dispatcher) (nodes []string, lags map[string]Lag) {
	w.t.Helper()
	nodes, all, err := d.Watched(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	lags = map[string]Lag{}
	for _, l := range all {
		lags[l.Node+" "+l.Network] = l
	}
	return nodes, lags
}

func TestLagsNameWhoHoldsBack(t *testing.T) {
	w := newWorld(t)
	w.add(task("w1", "web", "n1", 11, swarm.TaskStateRunning))
	w.add(task("w2", "web", "n2", 12, swarm.TaskStateRunning))
	d := w.start(Config{})
	told := map[string]uint64{}
	tasks := func(m *protocol.Message) bool { return m.Tasks != nil }
	for _, node := range []string{"n1", "n2"} {
		for _, n := range connect(t, d, node).until("the tasks", tasks).Networks {
			told[n.ID] = n.Revision
		}
		d.ledger.ack(node, told)
	}
	if nodes, lags := w.watched(d); len(nodes) != 2 || len(lags) != 0 {
		t.Fatalf("after both have acknowledged: nodes %v, lags %v", nodes, lags)
	}

	before := time.Now()
	w.set("w1", swarm.TaskStateRunning, swarm.TaskStateShutdown)
	_, lags := w.watched(d)
	l, late := lags["n2 user"]
	if !late || l.Held != told["user"] || l.Revision != w.index() || l.Since.Before(before) {
		t.Errorf("n2 has not acknowledged revision %d: %+v in %v", w.index(), l, lags)
	}
	d.ledger.ack("n1", map[string]uint64{"mesh": w.index(), "user": w.index()})
	_, lags = w.watched(d)
	if _, late := lags["n1 user"]; late || lags["n2 user"] != l {
		t.Errorf("n1 has acknowledged, n2 has not since %v: %+v", l.Since, lags)
	}
	// A later change does not make the lag younger.
	w.set("w2", swarm.TaskStateRunning, swarm.TaskStateShutdown)
	if _, lags = w.watched(d); !lags["n2 user"].Since.Equal(l.Since) || lags["n2 user"].Revision != w.index() {
		t.Errorf("n2 lags since %v, not %+v", l.Since, lags["n2 user"])
	}
}
