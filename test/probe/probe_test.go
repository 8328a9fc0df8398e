package probe

import (
	"slices"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	at := time.UnixMicro(1_700_000_000_000_000)
	for line, want := range map[string]Sample{
		"1700000000000000 1500 ok 3f2a":                     {at, 1500 * time.Microsecond, true, "3f2a"},
		"1700000000000000 2 fail dial tcp: i/o timeout x y": {at, 2 * time.Microsecond, false, "dial tcp: i/o timeout x y"},
		"1700000000000000 2 ok ":                            {at, 2 * time.Microsecond, true, ""},
	} {
		got, err := parse(line)
		if err != nil || got != want {
			t.Errorf("parse(%q) = %v, %v; want %v", line, got, err, want)
		}
	}
	for _, line := range []string{"", "1 2 3 4", "x 2 ok y", "1 x ok y", "1 2 ok"} {
		if got, err := parse(line); err == nil {
			t.Errorf("parse(%q) = %v, want an error", line, got)
		}
	}
}

func TestCommand(t *testing.T) {
	s := Spec{Node: "node1", Sample: "/x/sample", Target: "web", Lookup: true, Every: time.Second, Timeout: 2 * time.Second}
	want := []string{"/x/sample", "probe", "-stdin", "-every", "1s", "-timeout", "2s", "-lookup", "web"}
	if got := s.command(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	s.PID = 7
	if got := s.command()[:6]; !slices.Equal(got, []string{"nsenter", "-t", "7", "-n", "-m", "/bin/sample"}) {
		t.Errorf("in a container: %v", got)
	}
}

func TestBetween(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	p := &Probe{samples: []Sample{{Start: at(1), OK: true}, {Start: at(2)}, {Start: at(3), OK: true}, {Start: at(4)}}}
	if got := p.Between(at(2), at(4)); len(got) != 2 || got[0].Start != at(2) {
		t.Errorf("Between = %v", got)
	}
	if got := p.Failures(at(1), at(4)); len(got) != 1 || got[0].Start != at(2) {
		t.Errorf("Failures = %v", got)
	}
}
