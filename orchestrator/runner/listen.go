package runner

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
)

// A container without a health check says by its ports that it can be called:
// from the moment that a task counts as running, every node sends it
// connections, and a process needs a while from its start to its first listen.
const (
	// listenPatience bounds the wait for it: an image may name ports that its
	// program does not open.
	listenPatience = 2 * time.Second
	listenPoll     = 10 * time.Millisecond
)

// awaitListen returns when a process of the container listens on one of the TCP
// ports that the container exposes, when it exposes none, or has ended.
func awaitListen(ctx context.Context, proc string, pid int, c *container.Config) {
	ports := tcpPorts(c)
	if len(ports) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, listenPatience)
	defer cancel()
	tick := time.NewTicker(listenPoll)
	defer tick.Stop()
	for {
		found, err := listens(proc, pid, ports)
		if found || err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func tcpPorts(c *container.Config) map[uint16]bool {
	out := map[uint16]bool{}
	if c == nil {
		return out
	}
	for p := range c.ExposedPorts {
		if p.Proto() == "tcp" {
			out[p.Num()] = true
		}
	}
	return out
}

// listens looks into the network namespace of a process. An error says that it
// cannot be looked into: the process has ended, or is not visible from here.
func listens(proc string, pid int, ports map[uint16]bool) (bool, error) {
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "net", table))
		if table == "tcp6" && os.IsNotExist(err) {
			break // a kernel without IPv6
		}
		if err != nil {
			return false, err
		}
		found, err := listener(f, ports)
		f.Close()
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// stateListen is TCP_LISTEN of the kernel's tcp_states.h.
const stateListen = "0A"

// listener reads a table as proc_pid_net(5) describes it: "sl local_address
// rem_address st ...", an address being hex digits, a colon and the port in hex.
func listener(table io.Reader, ports map[uint16]bool) (bool, error) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[3] != stateListen {
			continue
		}
		_, digits, _ := strings.Cut(f[1], ":")
		port, err := hex.DecodeString(digits)
		if err != nil || len(port) != 2 {
			return false, fmt.Errorf("socket table: address %q", f[1])
		}
		if ports[uint16(port[0])<<8|uint16(port[1])] {
			return true, nil
		}
	}
	return false, lines.Err()
}
