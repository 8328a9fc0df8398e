package meshd

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay/wireguard"
)

// WireGuardCommand is the first argument by which meshd starts itself as the process
// of a WireGuard device, on kernels without WireGuard. Nobody else is to use it.
const WireGuardCommand = wireguard.HelperCommand

// ServeWireGuard is that process; args are those behind WireGuardCommand.
func ServeWireGuard(args []string) error { return wireguard.Serve(args) }

// encryptionKeys are this node's public keys.
func (d *Daemon) encryptionKeys() []protocol.EncryptionKey {
	keys, _ := d.overlay.Keys()
	var out []protocol.EncryptionKey
	for _, k := range keys {
		out = append(out, protocol.EncryptionKey{Epoch: k.Epoch, Key: k.Key[:], Port: k.Port})
	}
	return out
}

// announceKeys has the managers know this node's newest keys; told are those that it
// had before it spoke to any.
func (n *node) announceKeys(ctx context.Context, told []wireguard.PublicKey) error {
	for {
		keys, changed := n.d.overlay.Keys()
		if a := n.agent.Load(); a != nil && !slices.Equal(keys, told) {
			told = keys
			a.Announce()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// silentPeers are the nodes that should be reached encrypted and are not, of all that encrypted networks lead to.
func (d *Daemon) silentPeers(now time.Time) (silent []string, all int) {
	d.data.mu.Lock()
	nodes := d.data.view.Nodes
	d.data.mu.Unlock()
	peers := d.overlay.EncryptedPeers()
	for _, p := range peers {
		if !p.Unreached(now) {
			continue
		}
		name := p.Addr.String()
		if i := slices.IndexFunc(nodes, func(n protocol.Node) bool { return n.ID == p.ID }); i >= 0 {
			name = cmp.Or(nodes[i].Hostname, name)
		}
		silent = append(silent, name)
	}
	return silent, len(peers)
}
