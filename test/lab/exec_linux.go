package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Exec runs a prepared command (streams, arguments) in a node, or in the client machine, and waits for it. The error is the command's.
func (l *Lab) Exec(node string, cmd *exec.Cmd) error {
	r, err := readRecord(l.name)
	if err != nil {
		return err
	}
	if node == Client {
		return startIn(cmd, netnsPath(l.name, Client))
	}
	n, err := r.node(node)
	if err != nil {
		return err
	}
	if !n.Init.alive() {
		return fmt.Errorf("%s does not run (meshctl lab start %s)", node, node)
	}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	// A DOCKER_HOST from outside may name another node's socket, which is not there inside.
	cmd.Env = append(cmd.Env, "DOCKER_HOST=unix://"+meshdSocket(l.name, node))
	var namespaces []string
	for _, kind := range []string{"net", "uts", "pid", "mnt"} {
		namespaces = append(namespaces, filepath.Join("/proc", strconv.Itoa(n.Init.PID), "ns", kind))
	}
	return startIn(cmd, namespaces...)
}

func startIn(cmd *exec.Cmd, namespaces ...string) error {
	if cmd.Err != nil && !errors.Is(cmd.Err, exec.ErrDot) {
		return cmd.Err
	}
	if cmd.Dir == "" {
		// Entering a mount namespace moves the thread to its root directory.
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		cmd.Dir = dir
	}
	if strings.Contains(cmd.Path, "/") && !filepath.IsAbs(cmd.Path) {
		abs, err := filepath.Abs(cmd.Path)
		if err != nil {
			return err
		}
		cmd.Path = abs
	}
	err := onOwnThread(func() error {
		if err := enter(namespaces...); err != nil {
			return err
		}
		return cmd.Start()
	})
	if err != nil {
		return err
	}
	return cmd.Wait()
}
