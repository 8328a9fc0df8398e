package dispatcher

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

func TestServingWaitsForEverySubscriber(t *testing.T) {
	w := newWorld(t)
	w.add(task("w1", "web", "n1", 11, swarm.TaskStateStarting))
	w.add(task("w2", "web", "n2", 12, swarm.TaskStateRunning))
	d := w.start(Config{})
	serving := func(id string) (ok bool) {
		w.store.View(func(v *store.View) { ok = d.Serving(v)(v.Task(id)) })
		return ok
	}
	if serving("w2") {
		t.Error("a task that ran before anybody watched serves for sure")
	}
	w.set("w1", swarm.TaskStateRunning, swarm.TaskStateRunning)
	poll(t, "the dispatcher to see it", func() bool { _, ok := d.cache.servesSince("w1"); return ok })
	ack := func(node string, mesh, user uint64) {
		d.ledger.ack(node, map[string]uint64{"mesh": mesh, "user": user})
	}
	now, _ := d.cache.servesSince("w1") // others may have changed something since
	for _, step := range []struct {
		node       string
		mesh, user uint64
		want       bool
	}{
		{"n1", now, now, false},
		{"n2", now, now - 1, false},
		{"n2", now, now, false}, // web publishes: n3 leads clients to it, too
		{"n3", now - 1, 0, false},
		{"n3", now, 0, true},
	} {
		if ack(step.node, step.mesh, step.user); serving("w1") != step.want {
			t.Errorf("after %+v: serving is %t", step, !step.want)
		}
	}
	w.set("w1", swarm.TaskStateRunning, swarm.TaskStateShutdown)
	poll(t, "the dispatcher to see the end", func() bool { _, ok := d.cache.servesSince("w1"); return !ok })
}
