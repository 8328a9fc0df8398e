package runner

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

const socketTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0050 0200000A:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
`

func TestListener(t *testing.T) {
	for port, want := range map[uint16]bool{8080: true, 80: false, 40000: false} {
		got, err := listener(strings.NewReader(socketTable), map[uint16]bool{port: true})
		if err != nil || got != want {
			t.Errorf("port %d: %v, %v, want %v", port, got, err, want)
		}
	}
	for _, bad := range []string{"0: 00000000 0:0 0A", "0: 0:XY 0:0 0A", "0: 0:00 0:0 0A"} {
		if _, err := listener(strings.NewReader(bad), nil); err == nil {
			t.Errorf("%q is read without an error", bad)
		}
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
