package ipvs_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ipvstest"
)

func keep(t *testing.T) (*ipvstest.Fake, *ipvs.Keeper) {
	t.Helper()
	f := &ipvstest.Fake{}
	k := ipvs.NewKeeper(f, ipvs.KeeperConfig{Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	return f, k
}

func TestKeeperTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, k := keep(t)
		f.Fail(errors.New("busy"))
		if k.Set(ipvs.State{MeshVNI: 7}) == nil {
			t.Fatal("the failure was hidden")
		}
		time.Sleep(time.Second)
		f.Fail(nil)
		time.Sleep(10 * time.Second)
		if s, _ := f.Held(); s.MeshVNI != 7 {
			t.Errorf("held %+v", s)
		}
		if n := f.Sets(); n < 3 || n > 5 {
			t.Errorf("%d tries in 11 s", n)
		}
	})
}

func TestKeeperResyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, k := keep(t)
		time.Sleep(time.Minute)
		if n := f.Sets(); n != 0 {
			t.Errorf("%d calls before the first state", n)
		}
		if err := k.Set(ipvs.State{MeshVNI: 7}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if n := f.Sets(); n < 4 || n > 6 {
			t.Errorf("%d calls in two minutes", n)
		}
	})
}
