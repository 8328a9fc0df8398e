package dispatcher

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/allocator"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// newAttachable is a world with an allocator, where two networks take containers.
func newAttachable(t *testing.T) (*world, *Dispatcher) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	loop := allocator.New(allocator.Config{Store: w.store, Proposer: w.proposer, Log: slog.New(slog.DiscardHandler)})
	go func() { done <- loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.change(func(tx *store.Tx) {
		for _, n := range []*store.Network{network("att", 4098, "10.1.0.0/24", false), network("btt", 4099, "10.2.0.0/30", false)} {
			n.Spec.Attachable = true
			tx.Create(n)
		}
	})
	return w, w.start(Config{})
}

func (w *world) attachments(node string) (out []*store.Task) {
	w.store.View(func(v *store.View) {
		for _, t := range v.TasksOnNode(node) {
			if t.Attached() {
				out = append(out, t)
			}
		}
	})
	return out
}

// container is what a node tells of a container that was attached as answered.
func container(reply protocol.AttachReply, name string, running bool) protocol.Attached {
	return protocol.Attached{TaskID: reply.TaskID, ContainerID: name + "id", Name: name, Running: running, Networks: reply.Networks}
}

func TestAttach(t *testing.T) {
	w, d := newAttachable(t)
	ctx := context.Background()
	to := func(target string, addrs ...netip.Addr) protocol.AttachRequest {
		return protocol.AttachRequest{Networks: []protocol.AttachTo{{Target: target, Addrs: addrs, Aliases: []string{"alias"}}}}
	}
	for want, c := range map[string]struct {
		req protocol.AttachRequest
		is  func(error) bool
	}{
		"network nope not found":         {to("nope"), errdefs.IsNotFound},
		"network user-net not manually":  {to("user-net"), errdefs.IsPermissionDenied},
		"does not belong to any of this": {to("att", netip.MustParseAddr("10.9.0.1")), errdefs.IsInvalidArgument},
		"10.1.0.1":                       {to("att", netip.MustParseAddr("10.1.0.1")), errdefs.IsConflict}, // the gateway's
	} {
		if _, err := d.attach(ctx, "n1", c.req); err == nil || !c.is(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if left := w.attachments("n1"); len(left) != 0 {
		t.Fatalf("refusals left %d attachments", len(left))
	}

	one, err := d.attach(ctx, "n1", to("att", netip.MustParseAddr("10.1.0.10")))
	if err != nil {
		t.Fatal(err)
	}
	if len(one.Networks) != 2 || one.Networks[0].ID != "mesh" || one.Networks[1].Addrs[0].String() != "10.1.0.10/24" || one.Networks[1].Name != "att-net" {
		t.Errorf("answer: %+v", one)
	}
	if _, err := d.attach(ctx, "n2", to("att", netip.MustParseAddr("10.1.0.10"))); !errdefs.IsConflict(err) {
		t.Errorf("an address twice: %v", err)
	}
	if _, err := d.attach(ctx, "n2", protocol.AttachRequest{TaskID: one.TaskID}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("another node's attachment: %v", err)
	}
	more := to("btt")
	more.TaskID = one.TaskID
	two, err := d.attach(ctx, "n1", more)
	if err != nil || two.TaskID != one.TaskID || two.Networks[1].ID != "btt" || two.Networks[0].Addrs[0] != one.Networks[0].Addrs[0] {
		t.Errorf("connected to one more: %+v, %v", two, err)
	}
	if _, err := d.attach(ctx, "n2", to("btt")); err == nil || !strings.Contains(err.Error(), "btt-net") {
		t.Errorf("a full network: %v", err)
	}
	if n := len(w.attachments("n2")); n != 0 {
		t.Errorf("refusals left %d attachments", n)
	}
}

func TestAttachedReports(t *testing.T) {
	w, d := newAttachable(t)
	ctx := context.Background()
	report := func(node string, partial bool, containers ...protocol.Attached) protocol.AttachedReply {
		t.Helper()
		reply, err := d.attached(ctx, node, protocol.AttachedReport{Containers: containers, Partial: partial})
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	endpoint := func() (e protocol.Endpoint, there bool) {
		w.store.View(func(v *store.View) {
			for _, n := range Networks(v, "n1") {
				for _, e = range n.Endpoints {
					if there = there || n.ID == "att"; there {
						return
					}
				}
			}
		})
		return e, there
	}
	one, err := d.attach(ctx, "n1", protocol.AttachRequest{Networks: []protocol.AttachTo{{Target: "att"}}})
	if err != nil {
		t.Fatal(err)
	}
	if report("n1", true); len(w.attachments("n1")) != 1 {
		t.Fatal("a partial report took away what is being made")
	}
	if e, there := endpoint(); !there || e.State != protocol.EndpointStarting || e.Name != "" {
		t.Errorf("being made: %+v, %v", e, there)
	}
	one.Networks[1].Aliases = []string{"a"}
	report("n1", false, container(one, "c", true))
	if e, there := endpoint(); !there || e.State != protocol.EndpointServing || e.Name != "c" || e.ContainerID != "cid" || e.Aliases[0] != "a" {
		t.Errorf("running: %+v", e)
	}
	before := w.index()
	if reply := report("n1", false, container(one, "c", true)); w.index() != before || reply.Again || len(reply.Refused) > 0 {
		t.Errorf("the same again made index %d of %d: %+v", w.index(), before, reply)
	}
	report("n1", false, container(one, "renamed", false))
	if e, _ := endpoint(); e.State != protocol.EndpointStarting || e.Name != "renamed" {
		t.Errorf("renamed and stopped: %+v", e)
	}
	report("n1", false, container(one, "renamed", true))
	if e, _ := endpoint(); e.State != protocol.EndpointServing {
		t.Errorf("started again: %+v", e)
	}
	if reply := report("n2", false, container(one, "thief", true)); len(reply.Refused) != 2 {
		t.Errorf("another node's: %+v", reply)
	}
	report("n1", false)
	if left := w.attachments("n1"); len(left) != 0 {
		t.Errorf("removed, but %d are left", len(left))
	}

	// A node that was given up comes back: it has its addresses if they are free.
	if reply := report("n1", false, container(one, "c", true)); !reply.Again {
		t.Errorf("not decided yet: %+v", reply)
	}
	w.settled(report, container(one, "c", true))
	if e, there := endpoint(); !there || e.Addrs[0] != one.Networks[1].Addrs[0].Addr() {
		t.Errorf("back: %+v", e)
	}
	report("n1", false)
	other, err := d.attach(ctx, "n2", protocol.AttachRequest{Networks: []protocol.AttachTo{{Target: "att", Addrs: []netip.Addr{one.Networks[1].Addrs[0].Addr()}}}})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		reply := report("n1", false, container(one, "c", true))
		if len(reply.Refused) == 0 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
			continue
		}
		if len(reply.Refused) == 0 || !strings.Contains(reply.Refused[0].Reason, "in use by") {
			t.Errorf("an address that is another's by now: %+v", reply)
		}
		break
	}
	w.change(func(tx *store.Tx) { tx.Remove(tx.Network("att")) })
	if reply := report("n2", false, container(other, "o", true)); len(reply.Refused) != 1 || reply.Refused[0].Reason != "the network is gone" {
		t.Errorf("a network that is gone: %+v", reply)
	}
	if left := w.attachments("n2"); len(left) != 1 || len(left[0].Spec.Networks) != 1 {
		t.Errorf("still there: %+v", left)
	}
}

// settled reports until nothing is undecided.
func (w *world) settled(report func(string, bool, ...protocol.Attached) protocol.AttachedReply, c protocol.Attached) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); report("n1", false, c).Again; {
		if time.Now().After(deadline) {
			w.t.Fatal("the allocator does not settle it")
		}
		time.Sleep(time.Millisecond)
	}
	report("n1", false, c) // the state follows the addresses
	for _, k := range w.attachments("n1") {
		if k.Status.State != swarm.TaskStateRunning {
			w.t.Errorf("it is %s", k.Status.State)
		}
	}
}
