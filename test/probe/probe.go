// Package probe calls targets in a lab in a steady beat and keeps every answer, so that a test can say afterwards what a client saw at any
// moment of a change. The calls are made by `sample probe`, from the client machine, from a node, or from inside of a container; a
// container's one is not started through its engine, so that it goes on while the engine does not run.
package probe

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// Spec says who calls what.
type Spec struct {
	// Node is a node of the lab, or lab.Client.
	Node string
	// PID is a process of the container to call from, as the node counts; zero: the node itself, with Sample as program.
	PID    int
	Sample string
	// Target is a URL (http, udp://HOST:PORT or stream://HOST:PORT), or a name to look up.
	Target string
	Lookup bool
	// Hold is how many connections stay open and are used in turn; zero: each call has its own. Idle: they are used once in the beginning and
	// once in the end.
	Hold int
	Idle bool
	// Every is the beat, Timeout the longest time for a call.
	Every, Timeout time.Duration
}

func (s Spec) String() string {
	from := s.Node
	if s.PID != 0 {
		from = "a container on " + s.Node
	}
	if s.Hold > 0 {
		from += fmt.Sprintf(" over %d connections", s.Hold)
	}
	if s.Idle {
		from += " that are idle"
	}
	return from + " -> " + s.Target
}

// command is what runs in the node. The program of a container is that of its image.
func (s Spec) command() []string {
	args := []string{s.Sample}
	if s.PID != 0 {
		args = []string{"nsenter", "-t", strconv.Itoa(s.PID), "-n", "-m", "/bin/sample"}
	}
	args = append(args, "probe", "-stdin", "-every", s.Every.String(), "-timeout", s.Timeout.String())
	if s.Lookup {
		args = append(args, "-lookup")
	}
	if s.Hold > 0 {
		args = append(args, "-hold", strconv.Itoa(s.Hold))
	}
	if s.Idle {
		args = append(args, "-idle")
	}
	return append(args, s.Target)
}

// Sample is one call.
type Sample struct {
	Start time.Time
	Took  time.Duration
	OK    bool
	// What answered, or why nothing did.
	What string
}

func (s Sample) String() string {
	word := "ok"
	if !s.OK {
		word = "failed"
	}
	return fmt.Sprintf("%s %s after %v: %s", s.Start.Format("15:04:05.000"), word, s.Took.Round(time.Millisecond), s.What)
}

// Broke gives the host whose connection a call found broken; empty: it was not that.
func (s Sample) Broke() string {
	rest, broke := strings.CutPrefix(s.What, "broke ")
	host, _, _ := strings.Cut(rest, ":")
	if s.OK || !broke {
		return ""
	}
	return host
}

// Probe is a client that calls without pause.
type Probe struct {
	Spec
	stdin io.Closer
	done  chan error

	mu      sync.Mutex
	samples []Sample
}

// Start begins to call; Stop ends it.
func Start(l *lab.Lab, s Spec) (*Probe, error) {
	args := s.command()
	cmd := exec.Command(args[0], args[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, in := io.Pipe()
	var complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = in, &complaint
	p := &Probe{Spec: s, stdin: stdin, done: make(chan error, 1)}
	ended := make(chan error, 1)
	go func() {
		err := l.Exec(s.Node, cmd)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaint.Bytes()))
		}
		in.Close()
		ended <- err
	}()
	go func() {
		p.done <- errors.Join(p.collect(out), <-ended)
		close(p.done)
	}()
	return p, nil
}

// Stop ends the calls and waits for those under way. Safe to call again.
func (p *Probe) Stop() error {
	p.stdin.Close()
	if err := <-p.done; err != nil {
		return fmt.Errorf("%v: %w", p, err)
	}
	return nil
}

func (p *Probe) collect(r *io.PipeReader) error {
	defer r.Close() // whatever is wrong, the writer must not hang
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		s, err := parse(lines.Text())
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.samples = append(p.samples, s)
		p.mu.Unlock()
	}
	return lines.Err()
}

// parse reads a line of `sample probe`.
func parse(line string) (Sample, error) {
	f := strings.SplitN(line, " ", 4)
	if len(f) != 4 || f[2] != "ok" && f[2] != "fail" {
		return Sample{}, fmt.Errorf("a probe said %q", line)
	}
	start, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return Sample{}, err
	}
	took, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return Sample{}, err
	}
	return Sample{Start: time.UnixMicro(start), Took: time.Duration(took) * time.Microsecond, OK: f[2] == "ok", What: f[3]}, nil
}

// Between returns the calls that began in a span of time and have ended.
func (p *Probe) Between(from, to time.Time) []Sample {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Sample
	for _, s := range p.samples {
		if !s.Start.Before(from) && s.Start.Before(to) {
			out = append(out, s)
		}
	}
	return out
}

// Failures returns the calls of a span of time that failed.
func (p *Probe) Failures(from, to time.Time) []Sample {
	var out []Sample
	for _, s := range p.Between(from, to) {
		if !s.OK {
			out = append(out, s)
		}
	}
	return out
}
