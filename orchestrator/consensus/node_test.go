package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/store"
)

func TestFollowerForwardsAndReadsItsOwnWrite(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader(c.peers...)
	for i, p := range c.peers {
		name := fmt.Sprintf("from-%d", i)
		index, err := p.Propose(ctx(t), createConfig(name))
		must(t, err)
		if index == 0 || !has(p.store, name) {
			t.Errorf("%s proposed %s at %d, but its own store has not applied it", p.id, name, index)
		}
	}
	for _, p := range c.peers {
		must(t, p.Barrier(ctx(t)))
		if n := count(p.store); n != 3 {
			t.Errorf("%s has %d configs after the barrier, want 3", p.id, n)
		}
	}
	follower := c.others(lead)[0]
	_, err := follower.Propose(ctx(t), createConfig("from-0"))
	if !errors.Is(err, store.ErrNameConflict) {
		t.Errorf("a refusal through a follower is %v, want ErrNameConflict", err)
	}
	gone := &store.Config{}
	gone.ID = "nowhere"
	b := store.Batch{Changes: []store.Change{{Action: store.Update, Kind: gone.Kind(), Key: gone.Key(), Object: gone, Base: 7}}}
	if _, err := follower.Propose(ctx(t), b); !errors.Is(err, store.ErrSequence) {
		t.Errorf("an update of nothing through a follower is %v, want ErrSequence", err)
	}
}

func TestLeaderDiesUnderLoad(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader(c.peers...)
	rest := c.others(lead)
	// Writers on the survivors go on all the while; what they were told is there must be.
	var mu sync.Mutex
	var acked []string
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w, p := range rest {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("w%d-%d", w, i)
				if _, err := p.Propose(t.Context(), createConfig(name)); err != nil {
					t.Errorf("proposal %s: %v", name, err)
					continue
				}
				mu.Lock()
				acked = append(acked, name)
				mu.Unlock()
			}
		})
	}
	enough := func(n int) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return len(acked) >= n }
	}
	eventually(t, time.Minute, "some writes", enough(20))
	lead.down()
	died := time.Now()
	next := c.leader(rest...)
	t.Logf("new leader %s after %v", next.id, time.Since(died))
	mu.Lock()
	now := len(acked)
	mu.Unlock()
	eventually(t, time.Minute, "writes under the new leader", enough(now+20))
	close(stop)
	writers.Wait()

	c.start(lead)
	for _, p := range c.peers {
		must(t, p.Barrier(ctx(t)))
		for _, name := range acked {
			if !has(p.store, name) {
				t.Errorf("%s lacks %s, which was acknowledged", p.id, name)
			}
		}
		if n := count(p.store); n != len(acked) {
			t.Errorf("%s has %d configs, %d were acknowledged: one was applied twice or unasked", p.id, n, len(acked))
		}
	}
}

// The next write after the leader's stop waits for no election, which begins a heartbeat
// timeout after the last heartbeat. A loaded machine may take several tries.
func TestOrderlyStopHandsOver(t *testing.T) {
	c := newCluster(t, 3)
	eventually(t, time.Minute, "another leads at once", func() bool {
		lead := c.leader(c.peers...)
		begun := time.Now()
		lead.stop()
		_, err := c.others(lead)[0].Propose(ctx(t), createConfig(store.NewID()))
		took := time.Since(begun)
		must(t, err)
		c.start(lead)
		return took < heartbeatTimeout/2
	})
}

func TestNoQuorum(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader(c.peers...)
	rest := c.others(lead)
	eventually(t, time.Minute, "two of three would have a quorum", func() bool {
		r, err := lead.Without(ctx(t), rest[0].id)
		return err == nil && r.Quorum()
	})
	rest[0].down()
	if r, err := lead.Without(ctx(t), rest[1].id); err != nil || r.Quorum() || r.Voters != 2 {
		t.Errorf("one of two would not have a quorum: %+v, %v", r, err)
	}
	eventually(t, time.Minute, "the leader misses the dead one", func() bool {
		r, err := rest[1].Reachable(ctx(t))
		return err == nil && !r[rest[0].id] && r[rest[1].id] && r[lead.id]
	})
	lead.down()
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := rest[1].Propose(short, createConfig("lost"))
	if !errdefs.IsUnavailable(err) || !bytes.HasPrefix([]byte(err.Error()), []byte(noLeader)) {
		t.Errorf("without a quorum Propose fails with %v", err)
	}
	// One comes back: it goes on.
	c.start(rest[0])
	_, err = rest[1].Propose(ctx(t), createConfig("back"))
	must(t, err)
}

func TestAllRestartFromDisk(t *testing.T) {
	c := newCluster(t, 3)
	for i := range 10 {
		_, err := c.peers[i%3].Propose(ctx(t), createConfig(fmt.Sprintf("early-%d", i)))
		must(t, err)
	}
	for _, p := range c.peers {
		must(t, p.Barrier(ctx(t)))
		must(t, p.Snapshot())
		must(t, p.Snapshot())
	}
	_, err := c.peers[1].Propose(ctx(t), createConfig("late"))
	must(t, err)
	for _, p := range c.peers {
		p.down()
	}
	for _, p := range c.peers {
		noPlaintext(t, p.dir)
		c.start(p)
	}
	for _, p := range c.peers {
		must(t, p.Barrier(ctx(t)))
		if n := count(p.store); n != 11 {
			t.Errorf("%s has %d configs after the restart, want 11", p.id, n)
		}
	}
}

// noPlaintext looks through all files for what the objects hold.
func noPlaintext(t *testing.T, dir string) {
	t.Helper()
	files, bytesSeen := 0, 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files++
		bytesSeen += len(data)
		// JSON holds a config's data as base64, its labels as they are.
		for _, m := range []string{marker, "UExBSU5URVhULU1BUktFUi", "early-"} {
			if bytes.Contains(data, []byte(m)) {
				t.Errorf("%s holds %q in the clear", path, m)
			}
		}
		return err
	})
	must(t, err)
	if files < 4 {
		t.Errorf("only %d files in %s: is there no snapshot?", files, dir)
	}
	info, err := os.Stat(filepath.Join(dir, "raft.key"))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v", info.Mode())
	}
}

func TestLateManagerGetsSnapshot(t *testing.T) {
	c := newCluster(t, 1)
	p := c.peers[0]
	for i := range 5 {
		_, err := p.Propose(ctx(t), createConfig(fmt.Sprintf("c-%d", i)))
		must(t, err)
	}
	// With all log entries gone, a new manager can only get a snapshot.
	cfg := p.raft.ReloadableConfig()
	cfg.TrailingLogs = 0
	must(t, p.raft.ReloadConfig(cfg))
	must(t, p.Snapshot())
	q := c.grow(t.TempDir())
	must(t, q.Barrier(ctx(t)))
	if n := count(q.store); n != 5 {
		t.Errorf("the new manager has %d configs, want 5", n)
	}
	eventually(t, time.Minute, "two voters", func() bool { // what follows the snapshot may come after the barrier
		m := q.Members()
		return len(m) == 2 && m[0].Voter && m[1].Voter
	})
}

func TestMembers(t *testing.T) {
	c := newCluster(t, 3)
	lead := c.leader(c.peers...)
	rest := c.others(lead)

	err := lead.AddVoter(ctx(t), "ghost", "127.0.0.1:1")
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a manager that does not answer was added: %v", err)
	}
	err = rest[0].AddVoter(ctx(t), "ghost", rest[1].addr)
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a manager was added at another's address: %v", err)
	}
	must(t, rest[0].TransferLeadership(ctx(t)))
	eventually(t, time.Minute, "another leader", func() bool {
		id, _ := lead.Leader()
		return id != "" && id != lead.id
	})
	// A leader that leaves hands over first.
	lead = c.leader(c.peers...)
	rest = c.others(lead)
	must(t, lead.Remove(ctx(t), lead.id))
	must(t, rest[0].Remove(ctx(t), lead.id)) // again is no error
	lead.down()
	must(t, rest[0].Barrier(ctx(t)))
	if m := rest[0].Members(); len(m) != 2 {
		t.Errorf("members after one left: %+v", m)
	}
	_, err = rest[1].Propose(ctx(t), createConfig("two"))
	must(t, err)
	must(t, rest[0].Remove(ctx(t), rest[1].id))
	rest[1].down()
	if err := rest[0].Remove(ctx(t), rest[0].id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("the last manager was removed: %v", err)
	}
	_, err = rest[0].Propose(ctx(t), createConfig("one"))
	must(t, err)
}

func TestForceNewCluster(t *testing.T) {
	c := newCluster(t, 3)
	_, err := c.peers[0].Propose(ctx(t), createConfig("kept"))
	must(t, err)
	for _, p := range c.peers {
		must(t, p.Barrier(ctx(t)))
	}
	for _, p := range c.peers {
		p.down()
	}
	p := c.peers[2]
	must(t, ForceNewCluster(Config{Dir: p.dir, NodeID: p.id, Addr: p.addr}))
	c.start(p)
	_, err = p.Propose(ctx(t), createConfig("new"))
	must(t, err)
	if !has(p.store, "kept") || len(p.Members()) != 1 {
		t.Errorf("kept: %v, members %+v", has(p.store, "kept"), p.Members())
	}
	if err := ForceNewCluster(Config{Dir: t.TempDir(), NodeID: "x", Addr: "127.0.0.1:1"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("recovery from nothing: %v", err)
	}
}

func TestLeaderChanges(t *testing.T) {
	c := newCluster(t, 1)
	changes, stop := c.peers[0].LeaderChanges()
	defer stop()
	for lead := range changes {
		if lead {
			break
		}
	}
	c.peers[0].down()
	eventually(t, time.Minute, "the subscription ends", func() bool {
		_, ok := <-changes
		return !ok
	})
}
