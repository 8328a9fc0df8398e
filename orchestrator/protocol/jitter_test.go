package protocol

import (
	"testing"
	"time"
)

func TestJittered(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 1000 {
		d := Jittered(time.Second)
		if d > time.Second || d < 750*time.Millisecond {
			t.Fatalf("a second became %v", d)
		}
		seen[d] = true
	}
	if len(seen) < 100 {
		t.Errorf("%d different periods of 1000", len(seen))
	}
	if d := Jittered(0); d != 0 {
		t.Errorf("nothing became %v", d)
	}
}
