package api

import (
	"fmt"
	"testing"

	"github.com/moby/moby/api/types/system"
)

// TestDiskUsageForNewClients: an old engine's list becomes the sums that new clients want.
func TestDiskUsageForNewClients(t *testing.T) {
	r := newRig(t)
	u := decode[system.DiskUsage](r.do("GET", "/v1.52/system/df?verbose=1", nil).want(200, ""))
	for what, c := range map[string]struct{ got, want string }{
		"images":      {fmt.Sprint(u.ImageUsage.ActiveCount, u.ImageUsage.TotalCount, u.ImageUsage.Reclaimable, u.ImageUsage.TotalSize, len(u.ImageUsage.Items)), "1 3 40 100 3"},
		"containers":  {fmt.Sprint(u.ContainerUsage.ActiveCount, u.ContainerUsage.TotalCount, u.ContainerUsage.Reclaimable, u.ContainerUsage.TotalSize), "1 2 4 7"},
		"volumes":     {fmt.Sprint(u.VolumeUsage.ActiveCount, u.VolumeUsage.TotalCount, u.VolumeUsage.Reclaimable, u.VolumeUsage.TotalSize), "1 4 8 15"},
		"build cache": {fmt.Sprint(u.BuildCacheUsage.ActiveCount, u.BuildCacheUsage.TotalCount, u.BuildCacheUsage.Reclaimable, u.BuildCacheUsage.TotalSize), "1 3 2 3"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, want %s", what, c.got, c.want)
		}
	}
	if id := u.ContainerUsage.Items[1].ID; id != "c2" {
		t.Errorf("the second container is %s", id)
	}
	some := decode[system.DiskUsage](r.do("GET", "/v1.52/system/df?type=volume", nil).want(200, ""))
	if some.ImageUsage != nil || some.VolumeUsage == nil || len(some.VolumeUsage.Items) != 0 {
		t.Errorf("volumes only: %+v", some)
	}
}
