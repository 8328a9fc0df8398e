package runner

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

const socketTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0050 0200000A:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 00000000:0051 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
   3: 00000000:0050 0200000A:9C41 03 00000000:00000000 01:00000062 00000000     0        0 0 1 0
`

func TestSocketTable(t *testing.T) {
	var got []socket
	if _, err := anyRow(strings.NewReader(socketTable), func(s socket) bool { got = append(got, s); return false }); err != nil {
		t.Fatal(err)
	}
	want := []socket{{"0A", 8080, 0}, {"01", 80, 0}, {"0A", 81, 2}, {"03", 80, 0}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, bad := range []string{"0: 00000000 0:0 0A 0:0", "0: 0:XY 0:0 0A 0:0", "0: 0:00 0:0 0A", "0: 0:00 0:0 0A 0"} {
		if _, err := anyRow(strings.NewReader(bad), func(socket) bool { return false }); err == nil {
			t.Errorf("%q is read without an error", bad)
		}
	}
}

// What the kernel has accepted alone is waited for, but not on the node's own network.
func TestAwaitAccepted(t *testing.T) {
	proc := t.TempDir()
	write := func(table string) {
		path := filepath.Join(proc, "7/net/tcp")
		if err := errors.Join(os.WriteFile(path+".new", []byte(table), 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"7/net", "7/ns", "self/ns"} {
		if err := os.MkdirAll(filepath.Join(proc, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("net:[1]", filepath.Join(proc, "7/ns/net")), os.Symlink("net:[2]", filepath.Join(proc, "self/ns/net"))); err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(socketTable, "\n")
	quiet, header := strings.Join(lines[:3], ""), lines[0]
	for _, table := range []string{header + lines[3], header + lines[4]} {
		write(table)
		if awaitAccepted(t.Context(), proc, 7) {
			t.Errorf("accepted, with\n%s", table)
		}
	}
	write(quiet)
	if !awaitAccepted(t.Context(), proc, 7) {
		t.Error("nothing waits, and it is waited for")
	}
	write(header + lines[3])
	if !awaitAccepted(t.Context(), proc, 8) {
		t.Error("a process that has ended is waited for")
	}
	if err := errors.Join(os.Remove(filepath.Join(proc, "7/ns/net")), os.Symlink("net:[2]", filepath.Join(proc, "7/ns/net"))); err != nil {
		t.Fatal(err)
	}
	if !awaitAccepted(t.Context(), proc, 7) {
		t.Error("others' connections are waited for")
	}
}

func exposing(ports ...string) *container.Config {
	c := &container.Config{ExposedPorts: network.PortSet{}}
	for _, p := range ports {
		c.ExposedPorts[network.MustParsePort(p)] = struct{}{}
	}
	return c
}

func TestAwaitListen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for name, tt := range map[string]struct {
		config *container.Config
		pid    int
		atOnce bool
	}{
		"listens":           {exposing(port+"/tcp", "1/tcp"), os.Getpid(), true},
		"exposes nothing":   {exposing(), os.Getpid(), true},
		"exposes UDP only":  {exposing("1/udp"), os.Getpid(), true},
		"no config":         {nil, os.Getpid(), true},
		"has ended":         {exposing("1/tcp"), 1 << 30, true},
		"does not listen":   {exposing("1/tcp"), os.Getpid(), false},
		"listens elsewhere": {exposing("1/tcp", port+"/udp"), os.Getpid(), false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			awaitListen(ctx, "/proc", tt.pid, tt.config)
			if atOnce := ctx.Err() == nil; atOnce != tt.atOnce {
				t.Errorf("returned at once: %v, want %v", atOnce, tt.atOnce)
			}
		})
	}
}
