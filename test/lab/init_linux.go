package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// initArg0 is argv[0] of a node's init.
	initArg0 = "meshd-lab-init"
	// initEnv guards against a program that uses this package and forgot Reexec: its copy would run the whole program again.
	initEnv = "MESHD_LAB_INIT=1"
	readyFD = 3 // where init says "ok", or why not
)

// Reexec must be the first call in the main function of every program that brings labs up (in tests: in TestMain). In the copies of the
// program that this package starts as pid 1 of a node it does that work; then ran is true and the program has to exit with code.
func Reexec() (code int, ran bool) {
	if os.Args[0] != initArg0 {
		return 0, false
	}
	ready := os.NewFile(readyFD, "ready")
	if err := runInit(os.Args[1], os.Args[2], ready); err != nil {
		fmt.Fprintln(ready, err)
		return 1, true
	}
	return 0, true
}

// runInit is pid 1 of a node.
func runInit(lab, node string, ready *os.File) error {
	if err := prepareMounts(lab, node); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(node)); err != nil {
		return fmt.Errorf("set the host's name: %w", err)
	}
	os.Remove(initSocket(lab, node))
	listener, err := net.Listen("unix", initSocket(lab, node))
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM)
	family := &family{children: map[string]int{}}
	go family.serve(listener) // ends with the process, as everything here does
	fmt.Fprintln(ready, "ok")
	ready.Close()
	for s := range signals {
		if s == unix.SIGTERM {
			return nil // and the kernel ends the rest
		}
		family.reap()
	}
	return nil
}

// prepareMounts gives the node its own /proc and /run. The node's run directory is the same one inside and outside, so that its sockets
// can be used from outside.
func prepareMounts(lab, node string) error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	dir := runDir(lab, node)
	outside, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(outside)
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, path := range []string{"/run/docker/plugins", "/run/lock", netnsRoot, dir} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", outside), dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", dir, err)
	}
	// The places where programs inside of the node look by default.
	if err := os.Symlink(engineSocket(lab, node), "/run/docker.sock"); err != nil {
		return err
	}
	return os.Symlink(meshdSocket(lab, node), filepath.Join(runRoot, "meshd.sock"))
}

// request is what init.sock takes: one per connection, answered by one reply.
type request struct {
	Op     string   `json:"op"` // "start", "signal" or "status"
	Name   string   `json:"name,omitempty"`
	Argv   []string `json:"argv,omitempty"`
	Env    []string `json:"env,omitempty"`
	Log    string   `json:"log,omitempty"`
	Signal int      `json:"signal,omitempty"`
}

type reply struct {
	Error   string         `json:"error,omitempty"`
	Running map[string]int `json:"running"` // daemon to process ID inside of the node
}

// family is what init started by name. Orphans are reaped too, but not known.
type family struct {
	mu       sync.Mutex
	children map[string]int
}

func (f *family) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		var req request
		if err := json.NewDecoder(conn).Decode(&req); err == nil {
			_ = json.NewEncoder(conn).Encode(f.handle(req)) // nobody is left to tell if the asker went away
		}
		conn.Close()
	}
}

func (f *family) handle(req request) reply {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reapLocked() // so that a daemon that has just been killed does not count as running
	var err error
	switch req.Op {
	case "start":
		err = f.startLocked(req)
	case "signal":
		err = f.signalLocked(req.Name, unix.Signal(req.Signal))
	}
	answer := reply{Running: map[string]int{}}
	maps.Copy(answer.Running, f.children)
	if err != nil {
		answer.Error = err.Error()
	}
	return answer
}

// startLocked does nothing if the daemon runs.
func (f *family) startLocked(req request) error {
	if _, runs := f.children[req.Name]; runs {
		return nil
	}
	log, err := os.OpenFile(req.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	child, err := os.StartProcess(req.Argv[0], req.Argv, &os.ProcAttr{
		Dir: "/", Env: req.Env, Files: []*os.File{null, log, log}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	f.children[req.Name] = child.Pid
	return child.Release()
}

func (f *family) signalLocked(name string, sig unix.Signal) error {
	pid, runs := f.children[name]
	if !runs {
		return fmt.Errorf("%s does not run", name)
	}
	return unix.Kill(pid, sig)
}

func (f *family) reap() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reapLocked()
}

// reapLocked collects every process that has ended. The lock keeps it from taking a child between its start and its entry in the map.
func (f *family) reapLocked() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid == 0 {
			return
		}
		for name, child := range f.children {
			if child == pid {
				delete(f.children, name)
			}
		}
	}
}
