package control

import (
	"maps"
	"slices"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	now := time.Now()
	p := Pace{}
	all := map[string]bool{"small": true, "large": true, "huge": true}
	due := func(at time.Time, wantAgain time.Duration, want ...string) {
		t.Helper()
		got, again := p.Due(all, at)
		if ids := slices.Sorted(maps.Keys(got)); !slices.Equal(ids, want) {
			t.Errorf("due after %s are %v, want %v", at.Sub(now), ids, want)
		}
		if wantAgain == 0 != again.IsZero() || wantAgain > 0 && again.Sub(now) != wantAgain {
			t.Errorf("after %s, again at %s, want after %s", at.Sub(now), again, wantAgain)
		}
	}
	due(now, 0, "huge", "large", "small")
	p.Looked("small", 100, now)
	p.Looked("large", 1000, now)
	p.Looked("huge", 10000, now)
	due(now, 10*time.Millisecond, "small")
	due(now.Add(10*time.Millisecond), 100*time.Millisecond, "large", "small")
	due(now.Add(100*time.Millisecond), 0, "huge", "large", "small")
	if len(p) != 0 {
		t.Errorf("%v rest still", p)
	}
}
