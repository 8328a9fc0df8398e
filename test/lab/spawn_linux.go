package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawnInit starts a node's init in the node's network namespace and waits until it takes requests.
func spawnInit(lab, node string) (process, error) {
	if slices.Contains(os.Environ(), initEnv) {
		return process{}, errors.New("this program must call lab.Reexec first in main")
	}
	log, err := os.OpenFile(filepath.Join(runDir(lab, node), "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return process{}, err
	}
	defer log.Close()
	ready, readyWrite, err := os.Pipe()
	if err != nil {
		return process{}, err
	}
	defer ready.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{initArg0, lab, node}, Dir: "/", Env: append(daemonEnv(), initEnv),
		Stdout: log, Stderr: log, ExtraFiles: []*os.File{readyWrite},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS},
	}
	err = onOwnThread(func() error {
		if err := enter(netnsPath(lab, node)); err != nil {
			return err
		}
		return cmd.Start()
	})
	readyWrite.Close()
	if err != nil {
		return process{}, fmt.Errorf("start init of %s: %w", node, err)
	}
	said, err := io.ReadAll(ready)
	if err == nil && strings.TrimSpace(string(said)) != "ok" {
		err = errors.New(strings.TrimSpace(string(said)))
	}
	if err != nil {
		return process{}, errors.Join(fmt.Errorf("init of %s: %w", node, err), cmd.Wait())
	}
	p, err := findProcess(cmd.Process.Pid)
	return p, errors.Join(err, cmd.Process.Release())
}

// daemonEnv is all that init and the daemons see of this program's environment.
func daemonEnv() []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"DOCKER_SERVICE_PREFER_OFFLINE_IMAGE=1",
	}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "MESHD_") || strings.HasPrefix(kv, "GOCOVERDIR=") || strings.HasPrefix(kv, "GOTRACEBACK=") {
			env = append(env, kv)
		}
	}
	return env
}

// ask sends one request to a node's init.
func ask(ctx context.Context, lab, node string, req request) (reply, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", initSocket(lab, node))
	if err != nil {
		return reply{}, fmt.Errorf("%s does not run: %w", node, err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return reply{}, fmt.Errorf("limit the time of %s: %w", node, err)
		}
	}
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return reply{}, fmt.Errorf("ask init of %s: %w", node, err)
	}
	var answer reply
	if err := json.NewDecoder(conn).Decode(&answer); err != nil {
		return reply{}, fmt.Errorf("ask init of %s: %w", node, err)
	}
	if answer.Error != "" {
		return answer, fmt.Errorf("%s: %s", node, answer.Error)
	}
	return answer, nil
}
