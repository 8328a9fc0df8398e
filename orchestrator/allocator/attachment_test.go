package allocator

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// attach makes an attachment on networks, or changes the one there is.
func (w *world) attach(id string, wanted []netip.Addr, networks ...string) {
	w.Helper()
	w.do(func(tx *store.Tx) {
		t := &store.Task{Wanted: wanted}
		old := tx.Task(id)
		if old != nil {
			*t = *old
		} else {
			t.ID, t.NodeID, t.DesiredState = id, "node1", swarm.TaskStateRunning
			t.Status.State = swarm.TaskStateNew
			t.Spec.NetworkAttachmentSpec = &swarm.NetworkAttachmentSpec{}
		}
		t.Spec.Networks = nil
		for _, n := range networks {
			t.Spec.Networks = append(t.Spec.Networks, swarm.NetworkAttachmentConfig{Target: n})
		}
		if old != nil {
			tx.Update(t)
		} else {
			tx.Create(t)
		}
	})
}

// attached shows an attachment's state and addresses, or why it has none.
func (w *world) attached(id string) (out string) {
	w.view(func(v *store.View) {
		t := v.Task(id)
		out = string(t.Status.State)
		for _, c := range claimsOfTask(t) {
			out += " " + c.addr.String()
		}
		if t.Status.Err != "" {
			out += ": " + t.Status.Err
		}
	})
	return out
}

func TestAttachments(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(net("a", "10.1.0.0/24"), net("b", "10.2.0.0/29"))
		ten := []netip.Addr{netip.MustParseAddr("10.1.0.10")}
		w.attach("one", ten, "id-ingress", "id-a")
		if got := w.attached("one"); got != "assigned 10.255.0.2 10.1.0.10" {
			t.Errorf("one is %s", got)
		}
		w.attach("two", ten, "id-ingress", "id-a")
		if got := w.attached("two"); !strings.HasPrefix(got, "new: 10.1.0.10 of network a is in use by") {
			t.Errorf("two is %s", got)
		}
		w.attach("one", nil, "id-ingress", "id-a", "id-b") // connected to one more
		if got := w.attached("one"); got != "assigned 10.255.0.2 10.1.0.10 10.2.0.2" {
			t.Errorf("connected, one is %s", got)
		}
		w.stop()
		w.start() // a new leader keeps to what is stored
		w.attach("three", nil, "id-a")
		if got := w.attached("three"); !strings.HasPrefix(got, "assigned 10.1.0.") || strings.Contains(got, "10.1.0.10") {
			t.Errorf("three is %s", got)
		}
		w.do(func(tx *store.Tx) { tx.Remove(tx.Task("one")) })
		if got := w.attached("two"); !strings.HasSuffix(got, " 10.1.0.10") {
			t.Errorf("two waited for the address, and is %s", got)
		}
	})
}
