package runner

import (
	"bufio"
	"context"
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
	// acceptPatience bounds the wait for a process to accept what there is: it may
	// hang, which is why it is stopped.
	acceptPatience = time.Second
	socketPoll     = 10 * time.Millisecond
)

// awaitListen returns when a process of the container listens on one of the TCP
// ports that the container exposes, when it exposes none, or has ended.
func awaitListen(ctx context.Context, proc string, pid int, c *container.Config) {
	ports := tcpPorts(c)
	if len(ports) == 0 {
		return
	}
	await(ctx, listenPatience, func() bool {
		found, err := anySocket(proc, pid, func(s socket) bool { return s.state == stateListen && ports[s.port] })
		return found || err != nil
	})
}

// awaitAccepted returns when no connection waits to be accepted by a process of the
// container, or has begun to be made: one that the kernel has accepted alone is reset
// when the process closes its socket, which is the first thing that many do when asked
// to end. On the node's own network it does not wait: others listen there, too.
func awaitAccepted(ctx context.Context, proc string, pid int) (accepted bool) {
	own, err := os.Readlink(filepath.Join(proc, "self/ns/net"))
	theirs, err2 := os.Readlink(filepath.Join(proc, strconv.Itoa(pid), "ns/net"))
	if err != nil || err2 != nil || own == theirs {
		return true
	}
	return await(ctx, acceptPatience, func() bool {
		found, err := anySocket(proc, pid, func(s socket) bool { return s.state == stateHalfOpen || s.state == stateListen && s.queue > 0 })
		return !found || err != nil
	})
}

// await looks again and again until something is so, for at most so long.
func await(ctx context.Context, patience time.Duration, so func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(socketPoll)
	defer tick.Stop()
	for !so() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
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

// socket is a row of a socket table.
type socket struct {
	state string
	port  uint16
	// queue is, of one that listens, how many connections wait to be accepted.
	queue uint64
}

// States of the kernel's tcp_states.h.
const (
	stateHalfOpen = "03" // TCP_SYN_RECV, or TCP_NEW_SYN_RECV as it is shown
	stateListen   = "0A"
)

// anySocket looks for a TCP socket in the network namespace of a process. An error says
// that it cannot be looked into: the process has ended, or is not visible from here.
func anySocket(proc string, pid int, match func(socket) bool) (bool, error) {
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "net", table))
		if table == "tcp6" && os.IsNotExist(err) {
			break // a kernel without IPv6
		}
		if err != nil {
			return false, err
		}
		found, err := anyRow(f, match)
		f.Close()
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// anyRow reads a table as proc_pid_net(5) describes it: "sl local_address
// rem_address st tx_queue:rx_queue ...", an address being hex digits, a colon and the
// port in hex.
func anyRow(table io.Reader, match func(socket) bool) (bool, error) {
	lines := bufio.NewScanner(table)
	for first := true; lines.Scan(); first = false {
		f := strings.Fields(lines.Text())
		if first && len(f) > 0 && f[0] == "sl" {
			continue
		}
		s, err := parseSocket(f)
		if err != nil {
			return false, err
		}
		if match(s) {
			return true, nil
		}
	}
	return false, lines.Err()
}

func parseSocket(f []string) (socket, error) {
	wrong := fmt.Errorf("socket table: row %q", strings.Join(f, " "))
	if len(f) < 5 {
		return socket{}, wrong
	}
	_, digits, _ := strings.Cut(f[1], ":")
	_, waiting, _ := strings.Cut(f[4], ":")
	port, err := strconv.ParseUint(digits, 16, 16)
	queue, err2 := strconv.ParseUint(waiting, 16, 64)
	if err != nil || err2 != nil {
		return socket{}, wrong
	}
	return socket{state: f[3], port: uint16(port), queue: queue}, nil
}
