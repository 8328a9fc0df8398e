package ipvstest

import (
	"errors"
	"testing"

	"github.com/meshd/meshd/ipvs"
)

func TestFakeConforms(t *testing.T) {
	Conform(t, func(*testing.T) func() Holder { return func() Holder { return &Fake{} } })
}

func TestFakeBehaves(t *testing.T) {
	Behave(t, func(*testing.T) Rig { return &FakeRig{Fake: &Fake{}} })
}

func TestFakeFailsOnDemand(t *testing.T) {
	f := &Fake{}
	want := errors.New("no memory")
	f.Fail(want)
	if err := f.Set(ipvs.State{}); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
	f.Fail(nil)
	if err := f.Set(ipvs.State{}); err != nil || f.Sets() != 2 {
		t.Errorf("got %v after %d calls", err, f.Sets())
	}
}
