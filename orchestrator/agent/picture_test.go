package agent

import (
	"bytes"
	"errors"
	"testing"

	"github.com/meshd/meshd/orchestrator/protocol"
)

// Keys of gossip go on to the data plane, and stay while managers say nothing of them.
func TestGossipKeysReachTheView(t *testing.T) {
	p := newPicture(nil, 0)
	if d, err := p.apply(protocol.Message{GossipKeys: [][]byte{{1}, {2}}}); err != nil || !d.View {
		t.Error("new keys, but the data plane is not told")
	}
	mustApply(t, p, protocol.Message{Nodes: []protocol.Node{{ID: "a"}}})
	keys := p.view().GossipKeys
	if len(keys) != 2 || !bytes.Equal(keys[0], []byte{1}) {
		t.Errorf("keys %v", keys)
	}
	mustApply(t, p, protocol.Message{GossipKeys: [][]byte{{2}}})
	if keys = p.view().GossipKeys; len(keys) != 1 || !bytes.Equal(keys[0], []byte{2}) {
		t.Errorf("keys %v after the rotation", keys)
	}
}

func mustApply(t *testing.T, p *picture, m protocol.Message) {
	t.Helper()
	if _, err := p.apply(m); err != nil {
		t.Fatal(err)
	}
}

// A message that does not follow the last one changes nothing, not even what in it
// would apply; the snapshot of the next session does, and drops other networks.
func TestAMissedChangeEndsInASnapshot(t *testing.T) {
	change := func(id string, from, to uint64, tasks ...string) protocol.NetworkChange {
		c := protocol.NetworkChange{Network: protocol.Network{ID: id, Revision: to}, From: from}
		for _, task := range tasks {
			c.Endpoints = append(c.Endpoints, protocol.Endpoint{TaskID: task})
		}
		return c
	}
	p := newPicture(nil, 0)
	mustApply(t, p, protocol.Message{Networks: []protocol.NetworkChange{change("a", 0, 3, "t1"), change("b", 0, 3)}})
	mustApply(t, p, protocol.Message{Networks: []protocol.NetworkChange{change("a", 3, 5, "t2")}})
	_, err := p.apply(protocol.Message{
		Nodes: []protocol.Node{{ID: "x"}}, Networks: []protocol.NetworkChange{change("a", 5, 6), change("b", 4, 6)},
	})
	if v := p.view(); !errors.Is(err, errMissed) || len(v.Nodes) != 0 || v.Networks[0].Revision != 5 || len(v.Networks[0].Endpoints) != 2 {
		t.Fatalf("%v; view %+v", err, v)
	}
	mustApply(t, p, protocol.Message{
		Tasks: &protocol.Tasks{Full: true}, Networks: []protocol.NetworkChange{change("b", 0, 9)},
	})
	if v := p.view(); len(v.Networks) != 1 || v.Networks[0].Revision != 9 {
		t.Errorf("view %+v", v)
	}
}
