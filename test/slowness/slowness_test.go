package slowness

import (
	"testing"
	"time"
)

func TestStretch(t *testing.T) {
	for factor, want := range map[string]time.Duration{"": time.Second, "10": 10 * time.Second, "0": time.Second, "-3": time.Second, "fast": time.Second} {
		t.Setenv(Variable, factor)
		if got := Stretch(time.Second); got != want {
			t.Errorf("with %q a second is %v, want %v", factor, got, want)
		}
	}
}
