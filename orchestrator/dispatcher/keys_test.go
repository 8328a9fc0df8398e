package dispatcher

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

func TestGossipKeyInUseComesFirst(t *testing.T) {
	fresh := store.GossipKey{Key: []byte("fresh")}
	old := store.GossipKey{Key: []byte("old"), InUse: true}
	used := store.GossipKey{Key: []byte("fresh"), InUse: true}
	for _, tc := range []struct {
		keys []store.GossipKey
		want string
	}{
		{nil, ""},
		{[]store.GossipKey{old}, "old"},
		{[]store.GossipKey{fresh, old}, "old fresh"},
		{[]store.GossipKey{used, old}, "fresh old"},
		{[]store.GossipKey{used}, "fresh"},
		{[]store.GossipKey{fresh}, "fresh"},
	} {
		got := ""
		for _, k := range gossipKeys(&store.Cluster{GossipKeys: tc.keys}) {
			if got != "" {
				got += " "
			}
			got += string(k)
		}
		if got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.keys, got, tc.want)
		}
	}
	if gossipKeys(nil) != nil {
		t.Error("no cluster, but keys")
	}
}

func TestSessionsCarryNewGossipKeys(t *testing.T) {
	w := newWorld(t)
	w.add(task("w1", "web", "n1", 11, swarm.TaskStateRunning))
	d := w.start(Config{})
	a := connect(t, d, "n1")
	<-a.messages
	for _, name := range []string{"one", "two"} {
		w.change(func(tx *store.Tx) {
			var next store.Cluster
			if c := tx.Cluster(); c != nil {
				next = *c
			}
			next.GossipKeys = []store.GossipKey{{Key: []byte(name), InUse: true}}
			if tx.Cluster() == nil {
				tx.Create(&next)
			} else {
				tx.Update(&next)
			}
		})
		a.until("key "+name, func(m *protocol.Message) bool {
			return len(m.GossipKeys) == 1 && string(m.GossipKeys[0]) == name
		})
	}
}
