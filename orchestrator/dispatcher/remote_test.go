package dispatcher

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/certs/certstest"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
)

// serve runs the dispatcher behind a real server on loopback.
func serve(t *testing.T, k *certs.Keeper, d *Dispatcher) string {
	t.Helper()
	server := remote.NewServer(remote.Config{Keeper: k})
	d.Register(server)
	if err := server.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return server.Addr().String()
}

func TestOverTheWire(t *testing.T) {
	w := newWorld(t)
	ca, err := certs.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	manager := certstest.Keeper(t, ca, t.TempDir(), "n1", certs.RoleManager)
	var leaderAddr string
	leader := w.start(Config{DrainTimeout: time.Minute})
	leaderAddr = serve(t, manager, leader)
	relay := remote.NewClient(manager)
	defer relay.Close()
	f := w.start(Config{
		Leader: func() (string, string, bool) { return "n1", leaderAddr, false },
		Caller: relay, Relay: 20 * time.Millisecond, DrainTimeout: time.Minute,
	})
	addr := serve(t, certstest.Keeper(t, ca, t.TempDir(), "n3", certs.RoleManager), f)

	client := remote.NewClient(certstest.Keeper(t, ca, t.TempDir(), "n2", certs.RoleWorker))
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	req := protocol.SessionRequest{DataAddr: netip.MustParseAddr("192.0.2.2")}
	req.Description.Hostname = "two"
	stream, err := client.Open(ctx, addr, protocol.PathSession, req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	read := func(ok func(protocol.Message) bool) {
		t.Helper()
		for {
			var m protocol.Message
			if err := stream.Next(&m); err != nil {
				t.Fatal(err)
			}
			if ok(m) {
				return
			}
		}
	}
	read(func(m protocol.Message) bool { return m.Tasks != nil && m.Tasks.Full })
	poll(t, "the description", func() bool {
		n := w.node("n2")
		return n.Hostname() == "two" && n.Status.Addr == "192.0.2.2"
	})
	acks, err := client.Pour(ctx, addr, protocol.PathAcks)
	if err != nil {
		t.Fatal(err)
	}
	defer acks.Close()
	poll(t, "the leader to hear of n2", func() bool {
		if err := acks.Send(protocol.Ack{Same: true}); err != nil {
			t.Fatal(err)
		}
		beat, _ := leader.ledger.heard("n2", time.Now())
		return !beat.IsZero()
	})

	w.add(task("w2", "web", "n2", 12, swarm.TaskStateAssigned))
	w.add(task("w1", "web", "n1", 11, swarm.TaskStateRunning))
	read(func(m protocol.Message) bool { return m.Tasks != nil && len(m.Tasks.Set) == 1 })
	report := func(id string, state swarm.TaskState) error {
		return client.Call(ctx, addr, protocol.PathStatus, protocol.StatusReport{
			Updates: []protocol.StatusUpdate{{TaskID: id, Status: swarm.TaskStatus{State: state}}},
		}, &struct{}{})
	}
	if err := report("w2", swarm.TaskStateRunning); err != nil {
		t.Fatal(err)
	}
	if err := report("w1", swarm.TaskStateFailed); !errdefs.IsPermissionDenied(err) {
		t.Errorf("another node's task: %v", err)
	}
	var revision uint64
	read(func(m protocol.Message) bool {
		if stateIn(&m, "user", "w2") != protocol.EndpointServing {
			return false
		}
		revision = networkIn(&m, "user").Revision
		return true
	})
	if err := acks.Send(protocol.Ack{Networks: map[string]uint64{"user": revision}}); err != nil {
		t.Fatal(err)
	}
	poll(t, "the acknowledgement at the leader", func() bool { return leader.ledger.acked("n2", "user") == revision })

	w.set("w2", swarm.TaskStateRunning, swarm.TaskStateShutdown)
	left := w.index()
	poll(t, "the drain", func() bool { i, _ := leader.cache.leftAt("w2"); return i == left })
	for _, n := range []string{"n1", "n3"} {
		leader.ledger.ack(n, map[string]uint64{"user": left, "mesh": left})
	}
	go func() {
		all := map[string]uint64{"user": left, "mesh": left}
		// As agents of earlier versions do.
		if err := client.Call(ctx, addr, protocol.PathAck, protocol.Ack{Networks: all}, &struct{}{}); err != nil {
			t.Error(err)
		}
	}()
	if err := acks.Send(protocol.Ack{Same: true}); err != nil {
		t.Error(err)
	}
	var reply protocol.DrainedReply
	if err := client.Call(ctx, addr, protocol.PathDrained, protocol.DrainedRequest{TaskID: "w2"}, &reply); err != nil || len(reply.Late) > 0 {
		t.Errorf("drained: %+v, %v", reply, err)
	}
	if err := client.Call(ctx, addr, pathRelay, relayed{Beats: []string{"n1"}}, &struct{}{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a worker may relay: %v", err)
	}

	stranger := remote.NewClient(certstest.Keeper(t, ca, t.TempDir(), "stranger", certs.RoleWorker))
	defer stranger.Close()
	if s, err := stranger.Open(ctx, addr, protocol.PathSession, req); err == nil {
		err = s.Next(&protocol.Message{})
		s.Close()
		if !errdefs.IsUnavailable(err) {
			t.Errorf("an unknown node's session: %v", err)
		}
	} else if !errdefs.IsUnavailable(err) {
		t.Errorf("an unknown node: %v", err)
	}
}
