package store

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// BenchmarkEncode encodes a batch of reports that tasks run.
func BenchmarkEncode(b *testing.B) {
	var changes []Change
	for range 100 {
		old := &Task{}
		old.ID, old.ServiceID, old.NodeID, old.Slot = NewID(), NewID(), NewID(), 7
		old.NetworksAttachments = []swarm.NetworkAttachment{{}}
		next := *old
		next.Status = swarm.TaskStatus{State: swarm.TaskStateRunning, Timestamp: time.Now().UTC(), Message: "started"}
		changes = append(changes, Change{Action: Update, Kind: KindTask, Key: old.ID, Object: &next, old: old})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (Batch{Time: time.Now(), Changes: changes}).Encode(); err != nil {
			b.Fatal(err)
		}
	}
}
