package meshd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/google/renameio/v2"
	"github.com/moby/moby/api/types/swarm"
)

// membership is what a node remembers of the cluster it is in; the role is not
// here but in its certificate.
type membership struct {
	NodeID    string
	ClusterID string
	// ListenAddr and AdvertiseAddr are of the control port.
	ListenAddr    string
	AdvertiseAddr netip.AddrPort
	// DataAddr and DataPathPort are where peers send overlay traffic to.
	DataAddr     netip.Addr
	DataPathPort uint16
	// AdvertiseDevice and DataDevice are the interfaces that had these addresses
	// last; empty: none of this machine's. See move.go.
	AdvertiseDevice string `json:",omitempty"`
	DataDevice      string `json:",omitempty"`
	// Managers are the ones known last, to come back to.
	Managers []swarm.Peer
}

// loadMembership returns nil when the node is in no cluster.
func loadMembership(path string) (*membership, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read membership: %w", err)
	}
	m := &membership{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%s, this node's membership of its swarm, is damaged: %w; bring it back from a copy, or leave the swarm (docker swarm leave --force) and join again", path, err)
	}
	return m, nil
}

// save replaces the file in one step, so that a crash leaves the old or the new.
func (m *membership) save(path string) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(path, data, 0o600)
}
