package dispatcher

import (
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
)

// storedKeys are a node's WireGuard keys as it tells them. Of what is none nothing is kept.
func storedKeys(told []protocol.EncryptionKey) []store.EncryptionKey {
	const size, most = 32, 2
	var out []store.EncryptionKey
	for _, k := range told {
		if len(k.Key) == size && len(out) < most {
			out = append(out, store.EncryptionKey(k))
		}
	}
	return out
}

// keysOf are a node's WireGuard keys as others are told.
func keysOf(n *store.Node) []protocol.EncryptionKey {
	var out []protocol.EncryptionKey
	for _, k := range n.Keys {
		out = append(out, protocol.EncryptionKey(k))
	}
	return out
}

// epochOf is the one that every node is to have a WireGuard key of.
func epochOf(c *store.Cluster) uint64 {
	if c == nil {
		return 0
	}
	return c.KeyEpoch
}
