package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process names a process beyond the reuse of its ID.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat (proc_pid_stat(5))
}

// findProcess reads the start time of a process that the caller knows to be alive.
func findProcess(pid int) (process, error) {
	state, start, err := readStat(pid)
	if err != nil {
		return process{}, err
	}
	if dead(state) {
		return process{}, fmt.Errorf("process %d has ended", pid)
	}
	return process{PID: pid, Start: start}, nil
}

// alive is false for zombies: some machines' own init reaps late, and a zombie init means that its whole namespace has ended.
func (p process) alive() bool {
	if p.PID == 0 {
		return false
	}
	state, start, err := readStat(p.PID)
	return err == nil && start == p.Start && !dead(state)
}

func dead(state byte) bool { return state == 'Z' || state == 'X' }

// kill sends SIGKILL and waits for the end.
func (p process) kill(ctx context.Context) error {
	if !p.alive() {
		return nil
	}
	if err := unix.Kill(p.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %d: %w", p.PID, err)
	}
	return p.waitEnd(ctx)
}

func (p process) waitEnd(ctx context.Context) error {
	err := poll(ctx, func() error {
		// Reaps it if it is a child of this process; otherwise ECHILD, and somebody else does.
		_, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil)
		if p.alive() {
			return errors.New("still alive")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	return nil
}

func readStat(pid int) (state byte, start uint64, err error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseStat(string(raw))
}

// parseStat reads state (field 3) and starttime (field 22). The name in field 2 may hold blanks and parentheses.
func parseStat(line string) (state byte, start uint64, err error) {
	end := strings.LastIndexByte(line, ')')
	fields := strings.Fields(line[end+1:])
	if end < 0 || len(fields) < 20 {
		return 0, 0, fmt.Errorf("not a process's stat line: %q", line)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0][0], start, err
}

// processesIn lists the processes whose network namespace is one of the files given.
func processesIn(paths []string) []process {
	wanted := map[[2]uint64]bool{}
	for _, path := range paths {
		if id, ok := namespaceID(path); ok {
			wanted[id] = true
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil || len(wanted) == 0 {
		return nil
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if id, ok := namespaceID("/proc/" + e.Name() + "/ns/net"); !ok || !wanted[id] {
			continue
		}
		if p, err := findProcess(pid); err == nil {
			found = append(found, p)
		}
	}
	return found
}

// Processes finds the processes of that name (as ps -o comm shows it) in a node's network, where its daemons are, by their IDs on this machine.
func (l *Lab) Processes(node, name string) ([]int, error) {
	if _, err := l.node(node); err != nil {
		return nil, err
	}
	var found []int
	for _, p := range processesIn([]string{netnsPath(l.name, node)}) {
		comm, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/comm")
		if err == nil && strings.TrimSpace(string(comm)) == name { // else it has ended meanwhile
			found = append(found, p.PID)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no %s runs on %s", name, node)
	}
	return found, nil
}

// namespaceID returns device and inode of a namespace file; ok is false for a plain file, which is what a crash between the making
// of the file and the mount leaves.
func namespaceID(path string) (id [2]uint64, ok bool) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Statfs(path, &fs) != nil || fs.Type != unix.NSFS_MAGIC || unix.Stat(path, &st) != nil {
		return id, false
	}
	return [2]uint64{st.Dev, st.Ino}, true
}
