package agent

import (
	"bytes"
	"testing"

	"github.com/meshd/meshd/orchestrator/protocol"
)

// Keys of gossip go on to the data plane, and stay while managers say nothing of them.
func TestGossipKeysReachTheView(t *testing.T) {
	p := newPicture(nil, 0)
	if d := p.apply(protocol.Message{GossipKeys: [][]byte{{1}, {2}}}); !d.View {
		t.Error("new keys, but the data plane is not told")
	}
	p.apply(protocol.Message{Nodes: []protocol.Node{{ID: "a"}}})
	keys := p.view().GossipKeys
	if len(keys) != 2 || !bytes.Equal(keys[0], []byte{1}) {
		t.Errorf("keys %v", keys)
	}
	p.apply(protocol.Message{GossipKeys: [][]byte{{2}}})
	if keys = p.view().GossipKeys; len(keys) != 1 || !bytes.Equal(keys[0], []byte{2}) {
		t.Errorf("keys %v after the rotation", keys)
	}
}
