package meshd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMembershipOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "membership.json")
	if m, err := loadMembership(path); m != nil || err != nil {
		t.Errorf("without a file: %+v, %v", m, err)
	}
	if err := (&membership{NodeID: "n1"}).save(path); err != nil {
		t.Fatal(err)
	}
	if m, err := loadMembership(path); err != nil || m.NodeID != "n1" {
		t.Errorf("read %+v, %v", m, err)
	}
	for _, size := range []int64{0, 10} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if m, err := loadMembership(path); m != nil || err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "join again") {
			t.Errorf("cut to %d bytes it is read as %+v, %v", size, m, err)
		}
	}
}
