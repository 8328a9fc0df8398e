package meshd

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The resolvers' file is replaced, as DHCP clients do it, and written in place.
func TestResolversFileIsWatched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(to, text string) {
		t.Helper()
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "nameserver 192.0.2.1\n")
	changed := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- watchMachine(ctx, path, func() { changed <- struct{}{} }, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	await := func(what string, change func()) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for {
			change() // again: the first one may come before anybody looks
			select {
			case <-changed:
				return
			case <-time.After(statPeriod):
			case <-deadline:
				t.Fatalf("nobody noticed that the file was %s", what)
			}
		}
	}
	text := "nameserver 192.0.2.2\n"
	await("written", func() { text += "# more\n"; write(path, text) })
	await("replaced", func() {
		text += "# and more\n"
		write(path+".new", text)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	})
}
