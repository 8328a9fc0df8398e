package reaper

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// TestAttachmentsGoWithTheirNode whatever their state; those of others stay.
func TestAttachmentsGoWithTheirNode(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, node := range []string{"up", "down"} {
			k := &store.Task{}
			k.ID, k.NodeID, k.DesiredState = "at-"+node, node, swarm.TaskStateRunning
			k.Spec.NetworkAttachmentSpec = &swarm.NetworkAttachmentSpec{}
			w.do(func(tx *store.Tx) { tx.Create(k) })
		}
		if got := w.left(); got != "at-down at-up" {
			t.Errorf("before the nodes changed: %s", got)
		}
		state := func(id string, s swarm.NodeState) {
			w.do(func(tx *store.Tx) {
				n := *tx.Node(id)
				n.Status.State = s
				tx.Update(&n)
			})
		}
		state("down", swarm.NodeStateReady) // it tells at once, before it counts as back
		if got := w.left(); got != "at-down at-up" {
			t.Errorf("back again: %s", got)
		}
		state("down", swarm.NodeStateDown)
		if got := w.left(); got != "at-up" {
			t.Errorf("down: %s", got)
		}
		w.do(func(tx *store.Tx) { tx.Remove(tx.Node("up")) })
		if got := w.left(); got != "" {
			t.Errorf("removed: %s", got)
		}
	})
}
