package observe

import (
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/overlay"
	"github.com/meshd/meshd/overlay/wireguard"
)

func TestNodesThatAreNotReachedEncryptedAreNamed(t *testing.T) {
	f := twoNodes()
	now := time.Unix(1000, 0)
	heard := func(ago time.Duration) wireguard.Status {
		return wireguard.Status{Handshake: now.Add(-ago), Endpoint: ap("192.0.2.2:51820"), Sent: 5}
	}
	for what, c := range map[string]struct {
		peer overlay.EncryptedPeer
		have string
	}{
		"reached":          {overlay.EncryptedPeer{ID: "b", Keyed: true, Status: heard(time.Minute)}, ""},
		"not any more":     {overlay.EncryptedPeer{ID: "b", Keyed: true, Status: heard(4 * time.Minute)}, "the last one 4m0s ago, at 192.0.2.2:51820"},
		"never":            {overlay.EncryptedPeer{ID: "b", Keyed: true, Status: wireguard.Status{Endpoint: ap("192.0.2.2:51820")}}, "none yet, at 192.0.2.2:51820"},
		"without a key":    {overlay.EncryptedPeer{ID: "b"}, "it has told no key"},
		"given up, silent": {overlay.EncryptedPeer{ID: "b", Down: true, Keyed: true}, ""},
	} {
		f.encrypted = []overlay.EncryptedPeer{c.peer}
		report, err := f.observer(t).Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found := ""
		for _, d := range report.Differences {
			if d.Kind == "encryption" && d.What == "way to node node2" {
				found = d.Have
			}
		}
		if (c.have == "") != (found == "") || !strings.HasPrefix(found, c.have) {
			t.Errorf("%s: %q, want %q", what, found, c.have)
		}
	}
	f.encrypted = []overlay.EncryptedPeer{{ID: "b", Keyed: true, Status: heard(30 * time.Second)}}
	got := scrape(t, f.observer(t).Metrics())
	for _, line := range []string{`meshd_wireguard_handshake_age_seconds{node="node2"} 30`, `meshd_wireguard_bytes_total{direction="to",node="node2"} 5`} {
		if !strings.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
}
