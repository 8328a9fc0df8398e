package api

import (
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/meshd/meshd/orchestrator/store"
)

func TestNetworksAreEncryptedAsTheSwarmSays(t *testing.T) {
	for what, c := range map[string]struct {
		label   string
		options map[string]string
		want    bool
	}{
		"nobody asks":            {"", nil, false},
		"the network asks":       {"", map[string]string{"encrypted": ""}, true},
		"the network asks aloud": {store.EncryptOptIn, map[string]string{"encrypted": "true"}, true},
		"all are":                {store.EncryptAll, nil, true},
		"all are but this one":   {store.EncryptAll, map[string]string{"encrypted": "false"}, false},
	} {
		cluster := &store.Cluster{}
		cluster.Spec.Labels = map[string]string{store.LabelEncrypt: c.label}
		n := &store.Network{}
		n.Spec = networkSpec(network.CreateRequest{Name: "n", Driver: "overlay", Options: c.options})
		encryptUnasked(cluster, n)
		if n.Encrypted() != c.want {
			t.Errorf("%s: encrypted %v", what, n.Encrypted())
		}
	}
	if err := validateEncrypt(map[string]string{store.LabelEncrypt: "some"}); err == nil {
		t.Error("a label that makes no sense is taken")
	}
}
