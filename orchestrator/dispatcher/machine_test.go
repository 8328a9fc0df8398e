package dispatcher

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// A silent node whose machine answers is given up later than one whose does not.
func TestSilentDaemonOfALivingMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alive, dead := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
		w.change(func(tx *store.Tx) {
			for id, addr := range map[string]netip.Addr{"n2": alive, "n3": dead} {
				n := *tx.Node(id)
				n.DataAddr = addr
				tx.Update(&n)
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		d := New(Config{
			Store: w.store, Proposer: w.proposer, Leader: func() (string, string, bool) { return "n1", "n1:2377", true },
			Answers: func(_ context.Context, addr netip.Addr) bool { return addr == alive },
		})
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		beatFor := func(span time.Duration) {
			for end := time.Now().Add(span); time.Now().Before(end); {
				time.Sleep(time.Second)
				d.beat("n1")
			}
			synctest.Wait()
		}
		states := func(n2, n3 swarm.NodeState) {
			t.Helper()
			if got := w.node("n2").Status.State; got != n2 {
				t.Errorf("n2, silent but there, is %s, want %s", got, n2)
			}
			if got := w.node("n3").Status.State; got != n3 {
				t.Errorf("n3, silent and gone, is %s, want %s", got, n3)
			}
		}
		beatFor(6 * time.Second)
		states(swarm.NodeStateReady, swarm.NodeStateDown)
		beatFor(DaemonGrace - 5*time.Second)
		states(swarm.NodeStateReady, swarm.NodeStateDown)
		beatFor(5 * time.Second)
		states(swarm.NodeStateDown, swarm.NodeStateDown)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAnswers(t *testing.T) {
	if !Answers(t.Context(), netip.MustParseAddr("127.0.0.1")) {
		t.Error("this machine is said not to answer")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if Answers(ctx, netip.MustParseAddr("127.0.0.1")) {
		t.Error("a question that nobody waits for is said to be answered")
	}
}
