package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// process is a child of the coordinator that tells of its state of type S.
type process[S any] struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{}

	mu    sync.Mutex
	state S
	err   error // once done
}

// spawn starts this program in a role.
func spawn[S any](name string, progress io.Writer, args ...string) (*process[S], error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process[S]{name: name, cmd: exec.Command(self, args...), done: make(chan struct{})}
	p.cmd.Stderr = progress
	// Nothing outlives the coordinator, however that ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		p.in, err = p.cmd.StdinPipe()
	}
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go p.follow(out)
	return p, nil
}

func (p *process[S]) follow(out io.Reader) {
	defer close(p.done)
	dec := json.NewDecoder(out)
	for {
		var s S
		if err := dec.Decode(&s); err != nil {
			break
		}
		p.mu.Lock()
		p.state = s
		p.mu.Unlock()
	}
	err := p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = fmt.Errorf("%s ended: %w", p.name, errors.Join(err, io.EOF))
}

// look is what the process told last; the error is that it is no more.
func (p *process[S]) look() (S, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state, p.err
}

// until waits for a state.
func (p *process[S]) until(ctx context.Context, what string, ok func(S) bool) error {
	tick := time.NewTicker(tellEvery / 2)
	defer tick.Stop()
	for {
		s, err := p.look()
		if err != nil || ok(s) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: waiting until %s, it is at %+v: %w", p.name, what, s, ctx.Err())
		case <-tick.C:
		}
	}
}

// stop ends the process as an administrator would.
func (p *process[S]) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopPatience):
		p.kill()
		return fmt.Errorf("%s did not stop within %s", p.name, stopPatience)
	}
}

// stopPatience is how long a process may take to stop.
const stopPatience = 30 * time.Second

func (p *process[S]) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// usage is what a process has used.
type usage struct {
	cpu time.Duration
	// rss is what it holds in memory now, peak the most so far, in bytes.
	rss, peak int64
}

func (p *process[S]) used() (usage, error) {
	process, err := procfs.NewProc(p.cmd.Process.Pid)
	if err != nil {
		return usage{}, err
	}
	stat, err := process.Stat()
	if err != nil {
		return usage{}, err
	}
	status, err := process.NewStatus()
	cpu := time.Duration(stat.CPUTime() * float64(time.Second))
	return usage{cpu: cpu, rss: int64(status.VmRSS), peak: int64(status.VmHWM)}, err
}
