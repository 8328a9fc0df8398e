package admission

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

func keyed(name string, state swarm.NodeState, epochs ...uint64) *store.Node {
	n := &store.Node{}
	n.Description.Hostname, n.Status.State = name, state
	for _, e := range epochs {
		n.Keys = append(n.Keys, store.EncryptionKey{Epoch: e})
	}
	return n
}

func TestAChangeOfKeysWaitsForTheLast(t *testing.T) {
	ready, down := swarm.NodeStateReady, swarm.NodeStateDown
	for what, c := range map[string]struct {
		nodes []*store.Node
		late  string
	}{
		"all have the newest only": {[]*store.Node{keyed("a", ready, 4), keyed("b", ready, 4)}, ""},
		"one has both":             {[]*store.Node{keyed("a", ready, 4), keyed("b", ready, 4, 3)}, "on b:"},
		"two have the old one":     {[]*store.Node{keyed("z", ready, 3), keyed("a", ready, 3)}, "on a, z:"},
		"one that is given up":     {[]*store.Node{keyed("a", ready, 4), keyed("b", down, 3)}, ""},
		"one that has told none":   {[]*store.Node{keyed("a", ready, 4), keyed("b", ready)}, ""},
	} {
		cluster, now := &store.Cluster{KeyEpoch: 4}, time.Now()
		err := RotateKeys(cluster, c.nodes, now)
		switch {
		case c.late == "" && (err != nil || cluster.KeyEpoch != 5 || !cluster.KeyEpochSince.Equal(now)):
			t.Errorf("%s: %v, %+v", what, err, cluster)
		case c.late != "" && (!errdefs.IsConflict(err) || !strings.Contains(err.Error(), c.late) || cluster.KeyEpoch != 4):
			t.Errorf("%s: %v, epoch %d", what, err, cluster.KeyEpoch)
		}
	}
}

func TestASwarmMayEncryptItsMeshNetwork(t *testing.T) {
	for label, want := range map[string]bool{"": false, store.EncryptOptIn: false, store.EncryptAll: true} {
		f := Founder{}
		f.Request.Spec.Labels = map[string]string{store.LabelEncrypt: label}
		found, err := NewCluster(f)
		must(t, err)
		for _, c := range found.Batch.Changes {
			if n, ok := c.Object.(*store.Network); ok && n.Encrypted() != want {
				t.Errorf("%q: encrypted %v", label, n.Encrypted())
			}
		}
	}
}
