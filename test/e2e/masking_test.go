package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/probe"
)

const maskingLab = "e2emask"

// How long a dead node may get new connections. Gossip takes about a second; the
// rest is for a machine that is busy with something else.
const maskLimit = 2500 * time.Millisecond

// TestMasking: a dead node's tasks get no new connections from anywhere, at once
// and without a manager's help, and get them again when it is back.
func TestMasking(t *testing.T) {
	requireMachine(t)
	c := up(t, maskingLab, "--nodes", "4", "--managers", "3")
	c.must("meshctl", "lab", "load", "--name", maskingLab, "../../build/sample.tar")
	c.mustDocker("node1", "network", "create", "-d", "overlay", "back")
	c.mustDocker("node1", "service", "create", "-d", "--no-resolve-image", "--name", "web", "--mode", "global",
		"--hostname", "{{.Node.Hostname}}", "--network", "back", "--publish", "8080:8080", image)
	c.mustDocker("node1", "service", "create", "-d", "--no-resolve-image", "--name", "straight", "--mode", "global",
		"--hostname", "{{.Node.Hostname}}", "--label", "mesh.ingress=dsr", "--publish", "8090:8080", image)
	c.running("node1", "web", 4)
	c.running("node1", "straight", 4)
	c.answering("node1", "node1", "node2", "node3", "node4")
	c.answering("node4", "node1", "node2", "node3", "node4")

	c.outlivesItsDaemon("node4", "node1")
	c.isHidden("node4", "node1")

	k := c.holding("node1")
	c.dies("node2", "node1", "node4")
	k.end("node2")
	c.eventually("managers have noticed, too", func() error {
		if r := c.docker("node1", "node", "ls", "--format", "{{.Hostname}} {{.Status}}"); !strings.Contains(r.out, "node2 Down") {
			return fmt.Errorf("node ls: %v", r)
		}
		return nil
	})

	// With the second of three managers there is no quorum: nobody can declare
	// anything down, but nobody has to.
	c.dies("node3", "node1", "node4")
	if r := c.docker("node1", "node", "ls"); r.code == 0 && strings.Contains(r.out, "Leader") {
		t.Logf("there is a leader all the same:\n%s", r.out)
	}

	c.must("meshctl", "lab", "start", "--name", maskingLab, "node3")
	c.answering("node4", "node1", "node3", "node4")
	c.must("meshctl", "lab", "start", "--name", maskingLab, "node2")
	c.answering("node1", "node1", "node2", "node3", "node4")
}

// answering waits until calls of web through a node's published port reach the
// tasks on all of these nodes.
func (c *cluster) answering(through string, want ...string) {
	c.t.Helper()
	url := "http://" + c.address(through) + ":8080/"
	c.eventually(fmt.Sprintf("%s leads to %v", through, want), func() error {
		r := c.outside("sample", "get", "-n", "40", "-timeout", "2s", "-field", "hostname", url)
		for _, name := range want {
			if !strings.Contains(r.out, name) {
				return fmt.Errorf("no answer of %s: %v", name, r)
			}
		}
		return nil
	})
}

// outlivesItsDaemon kills a node's meshd, but not the node: another does not mask
// it, since its kernel still answers.
func (c *cluster) outlivesItsDaemon(node, asked string) {
	c.t.Helper()
	c.signal(node, lab.Meshd, syscall.SIGKILL)
	killed := time.Now()
	c.within(maskLimit, "gossip has lost the daemon", func() error {
		if time.Since(killed) < maskLimit-time.Second/2 {
			return errors.New("not yet")
		}
		return nil
	})
	c.must("meshctl", "lab", "start", "--name", c.name, node)
	c.eventually("all nodes are ready", func() error { return readyNodes(c, asked, 4) })
	log, err := os.ReadFile(filepath.Join("/run/meshd", c.name, asked, "meshd.log"))
	if err != nil || bytes.Contains(log, []byte("does not answer any more")) {
		c.t.Errorf("%s lost its daemon for a moment, and %s masked it (%v):\n%s", node, asked, err, log)
	}
}

// dies kills a node under clients that call through others without pause, and
// checks when the last call failed.
func (c *cluster) dies(victim string, through ...string) {
	c.t.Helper()
	ctx, end := context.WithCancel(context.Background())
	defer end()
	var callers []*caller
	var all sync.WaitGroup
	for _, node := range through {
		for _, port := range []string{"8080", "8090"} { // the latter's answers return directly
			k := c.newCaller(node, port)
			callers = append(callers, k)
			all.Go(func() { k.run(ctx) })
		}
	}
	c.must("meshctl", "lab", "kill", "--name", c.name, victim)
	killed := time.Now()
	c.within(2*maskLimit, "time has passed", func() error {
		if time.Since(killed) < maskLimit {
			return errors.New("not yet")
		}
		return nil
	})
	// By the VIP, from a container: every call has to find somebody alive.
	for _, node := range through {
		from := c.taskOn(node)
		if r := c.in(from, "sample", "get", "-n", "20", "-timeout", "1s", "-field", "hostname", "http://web:8080/"); r.code != 0 {
			c.t.Errorf("with %s dead, calls of the VIP on %s: %v", victim, node, r)
		} else if strings.Contains(r.out, victim) {
			c.t.Errorf("%s is dead but answers: %v", victim, r)
		}
	}
	end()
	all.Wait()
	for _, k := range callers {
		if k.calls < 10 {
			c.t.Errorf("only %d calls were made through %s", k.calls, k.url)
		}
		c.t.Logf("%s dead: of %d calls through %s %d failed, the last began %.2f s after the kill",
			victim, k.calls, k.url, k.failed, k.last.Sub(killed).Seconds())
		if k.last.Sub(killed) > maskLimit {
			c.t.Errorf("%s still leads to %s: %v", k.url, victim, k.err)
		}
	}
}

// holding lets clients outside hold connections through a node, so many that some lead to each other node.
func (c *cluster) holding(node string) *calls {
	c.t.Helper()
	k := &calls{c: c}
	c.t.Cleanup(k.stop)
	for _, port := range []string{"8080", "8090"} {
		k.start(probe.Spec{
			Node: lab.Client, Sample: filepath.Join(c.bin, "sample"), Target: "http://" + c.address(node) + ":" + port + "/",
			Hold: 32, Timeout: 30 * time.Second,
		})
	}
	c.eventually("connections stand", func() error {
		for _, p := range k.probes {
			if n := len(p.Between(time.Time{}, time.Now())); n < 2*p.Hold {
				return fmt.Errorf("%v: %d calls", p, n)
			}
		}
		return nil
	})
	return k
}

// end waits until the connections to a dead node have ended: they are reset when it is given up, since nobody else would tell their clients.
func (k *calls) end(victim string) {
	k.c.t.Helper()
	for _, p := range k.probes {
		broken := func() (out []probe.Sample) {
			for _, s := range p.Failures(time.Time{}, time.Now()) {
				if s.Broke() == victim {
					out = append(out, s)
				}
			}
			return out
		}
		k.c.eventually(fmt.Sprintf("%v: connections to %s end", p, victim), func() error {
			if len(broken()) == 0 {
				return errors.New("none yet")
			}
			return nil
		})
		for _, s := range broken() {
			if s.Took >= p.Timeout {
				k.c.t.Errorf("%v: %v: its client was not told", p, s)
			}
			k.c.t.Logf("%v: %v", p, s)
		}
	}
	k.stop()
}

// taskOn is web's task on a node; its container is asked for, since managers may
// not answer.
func (c *cluster) taskOn(node string) task {
	c.t.Helper()
	name := c.mustDocker(node, "ps", "--filter", "name=web", "--format", "{{.Names}}")
	service, id, ok := strings.Cut(name, ".")
	if !ok || strings.Contains(name, "\n") {
		c.t.Fatalf("containers of web on %s: %q", node, name)
	}
	return task{ID: id, Name: service, Node: node}
}

// caller calls a published port again and again from outside the cluster.
type caller struct {
	url, bin, netns string

	calls, failed int
	last          time.Time // when the last call that failed began
	err           error
}

func (c *cluster) newCaller(node, port string) *caller {
	return &caller{
		url: "http://" + c.address(node) + ":" + port + "/",
		bin: filepath.Join(c.bin, "sample"), netns: c.name + "-client",
	}
}

func (k *caller) run(ctx context.Context) {
	for ctx.Err() == nil {
		start := time.Now()
		out, err := exec.Command("ip", "netns", "exec", k.netns, k.bin, "get", "-timeout", "500ms", k.url).CombinedOutput()
		k.calls++
		if err != nil {
			k.failed, k.last, k.err = k.failed+1, start, fmt.Errorf("%w: %s", err, out)
		}
	}
}
