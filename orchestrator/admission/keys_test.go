package admission

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
)

// used is the key that nodes encrypt with.
func used(t *testing.T, keys []store.GossipKey) []byte {
	t.Helper()
	for _, k := range keys {
		if k.InUse {
			return k.Key
		}
	}
	t.Fatal("no key is in use")
	return nil
}

func knows(keys []store.GossipKey, key []byte) bool {
	for _, k := range keys {
		if bytes.Equal(k.Key, key) {
			return true
		}
	}
	return false
}

// A node may be one step behind another: it must know the other's key at every step.
func TestRotationKeepsNeighboursTogether(t *testing.T) {
	r := Rotation{Life: 12 * time.Hour, Overlap: 10 * time.Minute}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	keys, again, changed := r.next(nil, now)
	if !changed || len(keys) != 1 || len(keys[0].Key) != gossipKeySize || !keys[0].InUse {
		t.Fatalf("the first key: %+v", keys)
	}
	seen := map[string]bool{string(keys[0].Key): true}
	start := now
	for range 30 {
		if _, at, changed := r.next(keys, again.Add(-time.Second)); changed || !at.Equal(again) {
			t.Fatalf("a step before its time: changed %v, next at %v instead of %v", changed, at, again)
		}
		now = again
		before := keys
		if keys, again, changed = r.next(keys, now); !changed {
			t.Fatalf("no step at %v", now)
		}
		if !again.After(now) {
			t.Fatalf("the step after %v is at %v", now, again)
		}
		if !knows(before, used(t, keys)) || !knows(keys, used(t, before)) {
			t.Fatalf("nodes on either side of the step at %v do not understand each other", now)
		}
		if len(keys) > 2 {
			t.Fatalf("%d keys are known", len(keys))
		}
		seen[string(used(t, keys))] = true
	}
	if want := int(now.Sub(start)/(r.Life+2*r.Overlap)) + 1; len(seen) < want {
		t.Errorf("%d keys in %v, want %d", len(seen), now.Sub(start), want)
	}
}

func TestRotationDoesNotModifyWhatIsStored(t *testing.T) {
	r := Rotation{Life: time.Hour, Overlap: time.Minute}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	keys := []store.GossipKey{newGossipKey(now, false), newGossipKey(now, true)}
	if _, _, changed := r.next(keys, now.Add(time.Minute)); !changed || keys[0].InUse {
		t.Errorf("changed %v, stored keys %+v", changed, keys)
	}
}

func TestLeaderRenewsKeys(t *testing.T) {
	s, p := storetest.New()
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	loop := NewKeys(s, p, Rotation{Life: 20 * time.Millisecond, Overlap: 10 * time.Millisecond}, slog.New(slog.DiscardHandler))
	go func() { done <- loop.Run(ctx) }()
	storetest.Create(t, s, p, &store.Cluster{}) // of a version that had no gossip
	var first []byte
	storetest.Until(t, s, "a first key", func(v *store.View) bool {
		keys := v.Cluster().GossipKeys
		if len(keys) > 0 {
			first = used(t, keys)
		}
		return first != nil
	})
	storetest.Until(t, s, "the first key to be forgotten", func(v *store.View) bool {
		return !knows(v.Cluster().GossipKeys, first)
	})
	end()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// A removed node knows the keys; no need to wait twelve hours.
func TestRemovedNodesLoseTheKey(t *testing.T) {
	s, p := storetest.New()
	loop := NewKeys(s, p, Rotation{Life: time.Hour, Overlap: 10 * time.Millisecond}, slog.New(slog.DiscardHandler))
	node := &store.Node{}
	node.ID = "n1"
	storetest.Create(t, s, p, &store.Cluster{}, node)
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	var first []byte
	storetest.Until(t, s, "the first key", func(v *store.View) bool { // from then on the loop watches
		if keys := v.Cluster().GossipKeys; len(keys) > 0 {
			first = keys[0].Key
		}
		return first != nil
	})
	storetest.Do(t, s, p, func(tx *store.Tx) { tx.Remove(tx.Node("n1")) })
	storetest.Until(t, s, "the key that the removed node knows to be forgotten", func(v *store.View) bool {
		return !knows(v.Cluster().GossipKeys, first)
	})
	end()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestFoundersHaveAKey(t *testing.T) {
	f, err := NewCluster(Founder{})
	must(t, err)
	for _, c := range f.Batch.Changes {
		if c, ok := c.Object.(*store.Cluster); ok && len(used(t, c.GossipKeys)) != gossipKeySize {
			t.Errorf("keys of a new cluster: %+v", c.GossipKeys)
		}
	}
}
