package dispatcher

import (
	"context"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// loop feeds commits into the cache and wakes the sessions they concern. When
// the watcher was cut off it starts over from a fresh view.
func (d *Dispatcher) loop(ctx context.Context) error {
	for ctx.Err() == nil {
		d.watch(ctx)
	}
	return nil
}

func (d *Dispatcher) watch(ctx context.Context) {
	var index uint64
	var services []*store.Service
	w := d.cfg.Store.Watch(func(v *store.View) { index, services = v.Index(), v.Services() })
	defer w.Close()
	d.cache.reset(index, services)
	select {
	case <-d.ready:
		d.each(func(s *session) { s.changed(index) })
	default:
		close(d.ready)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case c, ok := <-w.C:
			if !ok {
				return
			}
			d.fanOut(c)
		}
	}
}

func (d *Dispatcher) fanOut(c store.Commit) {
	for _, e := range c.Events {
		d.noteNode(e)
	}
	t := newTouched()
	d.cfg.Store.View(func(v *store.View) { t.spread(v, c) })
	d.cache.turn.Lock()
	defer d.cache.turn.Unlock()
	d.cache.apply(c, t)
	d.each(func(s *session) { s.note(c.Index, t) })
}

// noteNode tells the ledger of nodes that others declared down, and of removed ones.
func (d *Dispatcher) noteNode(e store.Event) {
	if n, ok := e.New.(*store.Node); ok && n.Status.State == swarm.NodeStateDown {
		old, _ := e.Old.(*store.Node)
		if old == nil || old.Status.State != swarm.NodeStateDown {
			d.ledger.down(n.ID, d.cfg.Clock())
		}
	}
	if n, ok := e.Old.(*store.Node); ok && e.New == nil {
		d.ledger.forget(n.ID)
		d.each(func(s *session) {
			if s.node == n.ID {
				s.end(remote.Removed(n.ID))
			}
		})
	}
}
