package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/probe"
)

const partitionLab = "e2epart"

// TestPartition cuts nodes off, stops and restarts them and their daemons, while clients call without pause.
func TestPartition(t *testing.T) {
	requireMachine(t)
	next := anotherBuild(t)
	c := up(t, partitionLab, "--nodes", "4", "--managers", "3")
	c.must("meshctl", "lab", "load", "--name", c.name, "../../build/sample.tar")
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "net")
	c.mustDocker("node1", "service", "create", "-d", "--no-resolve-image", "--name", "web", "--replicas", "6", "--network", "net",
		"--publish", "8080:8080", "--publish", "9000:9000/udp", image)
	c.mustDocker("node1", "service", "create", "-d", "--no-resolve-image", "--name", "caller", "--mode", "global", "--network", "net", image, "sleep")
	c.running("node1", "web", 6)
	c.running("node1", "caller", 4)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"meshd killed under load", func(t *testing.T, c *cluster) { testDaemonUnderLoad(t, c, syscall.SIGKILL, "") }},
		{"meshd upgraded under load", func(t *testing.T, c *cluster) { testDaemonUnderLoad(t, c, syscall.SIGTERM, next) }},
		{"engine killed and restarted", testEngineUnderLoad},
		{"worker cut off", testWorkerCutOff},
		{"leader cut off", testLeaderCutOff},
		{"worker shut down", func(t *testing.T, c *cluster) { testShutDown(t, c, "node4") }},
		{"leader shut down", func(t *testing.T, c *cluster) { testShutDown(t, c, c.leader("node1")) }},
		{"worker gets another address", testWorkerMoves},
		{"leader gets another address", testLeaderMoves},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, c.sub(t)) }) {
			return
		}
	}
}

// calls are clients at work.
type calls struct {
	c      *cluster
	probes []*probe.Probe
}

// call lets clients call the published port through nodes, until the test ends.
func (c *cluster) call(nodes ...string) *calls {
	c.t.Helper()
	k := &calls{c: c}
	for _, n := range nodes {
		k.start(probe.Spec{Node: lab.Client, Sample: filepath.Join(c.bin, "sample"), Target: "http://" + c.address(n) + ":8080/"})
	}
	c.t.Cleanup(func() { k.stop() })
	return k
}

// vip adds a client in a container on a node, which calls the service by its address.
func (k *calls) vip(node string) *calls {
	c := k.c
	c.t.Helper()
	var tk task
	c.eventually("a client runs on "+node, func() error {
		callers := c.tasks("node1", "caller")
		i := slices.IndexFunc(callers, func(tk task) bool { return tk.Node == node })
		if i < 0 {
			return fmt.Errorf("clients %v", callers)
		}
		tk = callers[i]
		return nil
	})
	addr := c.in(tk, "sample", "lookup", "web")
	if addr.code != 0 {
		c.t.Fatalf("look web up: %v", addr)
	}
	k.start(c.calling(tk, addr.out))
	return k
}

// calling is a client in a task's container that calls port 8080 of an address.
func (c *cluster) calling(tk task, addr string) probe.Spec {
	c.t.Helper()
	return probe.Spec{Node: tk.Node, PID: c.pid(tk), Target: "http://" + addr + ":8080/"}
}

func (k *calls) start(s probe.Spec) {
	k.c.t.Helper()
	if s.Every == 0 {
		s.Every = 20 * time.Millisecond
	}
	if s.Timeout == 0 {
		s.Timeout = 2 * time.Second
	}
	p, err := probe.Start(k.c.lab(), s)
	if err != nil {
		k.c.t.Fatal(err)
	}
	k.probes = append(k.probes, p)
}

// heldConnections are as many as lead to tasks on all nodes, most likely.
const heldConnections = 8

// hold adds beside each client some that keep what they have: idle connections, one that never rests, and a flow of datagrams. It returns when
// they have it.
func (k *calls) hold() *calls {
	k.c.t.Helper()
	for _, p := range slices.Clone(k.probes) {
		at := strings.TrimSuffix(strings.TrimPrefix(p.Target, "http://"), ":8080/")
		idle, busy, flow := p.Spec, p.Spec, p.Spec
		idle.Hold, idle.Idle = heldConnections, true
		busy.Target = "stream://" + at + ":8080"
		flow.Hold, flow.Target = 1, "udp://"+at+":9000"
		for _, s := range []probe.Spec{idle, busy, flow} {
			s.Timeout = 20 * time.Second // of a machine with too much to do; what is lost stays lost
			k.start(s)
		}
	}
	k.c.eventually("all clients have begun", func() error {
		for _, p := range k.probes {
			if n := len(p.Between(time.Time{}, time.Now())); n == 0 || p.Idle && n < heldConnections {
				return fmt.Errorf("%v: %d calls", p, n)
			}
		}
		return nil
	})
	return k
}

func (k *calls) stop() {
	for _, p := range k.probes {
		if err := p.Stop(); err != nil {
			k.c.t.Error(err)
		}
	}
	k.probes = nil
}

// calm waits until none of the calls failed that began within the last while, and says since when.
func (k *calls) calm(while time.Duration) (since time.Time) {
	k.c.t.Helper()
	k.c.eventually("calls fail no more", func() error {
		now := time.Now()
		since = now.Add(-while)
		for _, p := range k.probes {
			if failed := p.Failures(since, now); len(failed) > 0 {
				return fmt.Errorf("%v: %v", p, failed[len(failed)-1])
			}
		}
		return nil
	})
	return since
}

// none fails the test if a call that began after from failed, or if hardly any was made until now.
func (k *calls) none(from time.Time) {
	k.c.t.Helper()
	probes := k.probes
	k.stop() // what is under way counts
	for _, p := range probes {
		all, failed := p.Between(from, time.Now()), p.Failures(from, time.Now())
		k.c.t.Logf("%v: %d of %d calls failed", p, len(failed), len(all))
		for i, s := range failed {
			if i < 3 {
				k.c.t.Errorf("%v, %.2fs after the event: %v", p, s.Start.Sub(from).Seconds(), s)
			}
		}
		if len(all) < 20 && !p.Idle || len(all) < p.Hold {
			k.c.t.Errorf("%v: only %d calls were made", p, len(all))
		}
	}
}

// hear lets the clients go on for a while: what is looked for is that nothing happens.
func (k *calls) hear(d time.Duration) {
	k.c.t.Helper()
	end := time.Now().Add(d)
	k.c.within(d+patience, fmt.Sprintf("clients called for %v", d), func() error {
		if time.Now().Before(end) {
			return errors.New("not yet")
		}
		return nil
	})
}

// lab is the same lab for what its command line does not have.
func (c *cluster) lab() *lab.Lab {
	c.t.Helper()
	l, err := lab.Open(c.name, io.Discard)
	if err != nil {
		c.t.Fatal(err)
	}
	return l
}

// nextLayout is the layout of the load balancer's maps in the build that nodes are upgraded to.
const nextLayout = "vnext"

// anotherBuild is a meshd whose load balancer has another layout of its maps than the one under test, so that connections have to be carried over.
func anotherBuild(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meshd")
	build := exec.Command("go", "build", "-ldflags", "-X github.com/meshd/meshd/ipvs/ebpf.layoutVersion="+nextLayout, "-o", path, "../../cmd/meshd")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	return path
}

// replace has a node run another build of meshd from its next start on.
func (c *cluster) replace(node, meshd string) {
	c.t.Helper()
	if err := c.lab().Replace(node, meshd); err != nil {
		c.t.Fatal(err)
	}
}

// signal reaches one daemon of a node.
func (c *cluster) signal(node, daemon string, sig syscall.Signal) {
	c.t.Helper()
	l := c.lab()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.Signal(ctx, node, daemon, sig); err != nil {
		c.t.Fatal(err)
	}
	if err := l.WaitEnded(ctx, node, daemon); err != nil {
		c.t.Fatal(err)
	}
}

// testDaemonUnderLoad: neither the end of meshd nor its beginning is noticed by clients, nor by connections and flows that they have. One that
// starts with an empty data plane would be. If another build is named, the nodes run that from then on.
func testDaemonUnderLoad(t *testing.T, c *cluster, sig syscall.Signal, build string) {
	for _, node := range []string{"node4", "node2"} {
		before := ids(c.tasks("node1", "web"))
		k := c.call(node, "node1").vip(node).vip("node1").hold()
		from := time.Now()
		c.signal(node, lab.Meshd, sig)
		if build != "" {
			c.replace(node, build)
		}
		k.hear(4 * time.Second) // more than the lease of a node
		c.must("meshctl", "lab", "start", "--name", c.name, node)
		c.eventually("all nodes are ready", func() error { return readyNodes(c, "node1", 4) })
		k.hear(4 * time.Second)
		if layouts := c.on(node, "ls", "/run/meshd/bpf/ipvs").out; build != "" && layouts != nextLayout {
			t.Errorf("layouts of the load balancer's maps: %q, want the new one alone", layouts)
		}
		k.none(from)
		if after := ids(c.tasks("node1", "web")); !slices.Equal(before, after) {
			t.Errorf("tasks changed from %v to %v", before, after)
		}
	}
}

func ids(tasks []task) []string {
	var out []string
	for _, tk := range tasks {
		out = append(out, tk.ID)
	}
	slices.Sort(out)
	return out
}

// testEngineUnderLoad: containers and connections do not mind the end of their engine (live-restore), and meshd finds it again.
func testEngineUnderLoad(t *testing.T, c *cluster) {
	const node = "node4"
	before := ids(c.tasks("node1", "web"))
	k := c.call(node, "node1").vip(node).vip("node1").hold()
	from := time.Now()
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		c.signal(node, lab.Engine, sig)
		k.hear(3 * time.Second)
		c.must("meshctl", "lab", "start", "--name", c.name, node)
		c.eventually("meshd's API leads to the engine again", func() error {
			if r := c.docker(node, "ps", "-q"); r.code != 0 || r.out == "" {
				return fmt.Errorf("docker ps: %v", r)
			}
			return nil
		})
		k.hear(3 * time.Second)
	}
	k.none(from)
	if after := ids(c.tasks("node1", "web")); !slices.Equal(before, after) {
		t.Errorf("tasks changed from %v to %v", before, after)
	}
	var victim task
	for _, tk := range c.tasks("node1", "web") {
		if tk.Node == node {
			victim = tk
		}
	}
	c.mustDocker(node, "kill", victim.Name+"."+victim.ID)
	c.eventually("meshd hears of what happens on the new engine", func() error {
		now := ids(c.tasks("node1", "web"))
		if slices.Contains(now, victim.ID) || len(now) != len(before) {
			return fmt.Errorf("tasks %v", now)
		}
		return nil
	})
}

// settled checks that what should run runs, everywhere once: no slot twice, no container too many.
func (c *cluster) settled(node, service string, replicas int) error {
	if err := readyNodes(c, node, 4); err != nil {
		return err
	}
	tasks := c.tasks(node, service)
	want := map[string]bool{}
	slots := map[string]string{}
	for _, tk := range tasks {
		if slots[tk.Name] != "" {
			return fmt.Errorf("slot %s has %s and %s", tk.Name, slots[tk.Name], tk.ID)
		}
		slots[tk.Name] = tk.ID
		want[tk.Name+"."+tk.ID] = true
	}
	if len(tasks) != replicas {
		return fmt.Errorf("%d tasks run", len(tasks))
	}
	have := map[string]bool{}
	for _, n := range []string{"node1", "node2", "node3", "node4"} {
		r := c.docker(n, "ps", "--format", "{{.Names}}", "--filter", "label=com.docker.swarm.service.name="+service)
		for _, name := range strings.Fields(r.out) {
			have[name] = true
		}
	}
	if !maps.Equal(want, have) {
		return fmt.Errorf("containers %v, tasks %v", slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want)))
	}
	return nil
}

func testWorkerCutOff(t *testing.T, c *cluster) {
	own := func() string {
		return c.docker("node4", "ps", "-q", "--no-trunc", "--filter", "label=com.docker.swarm.service.name=web").out
	}
	before := own()
	if before == "" {
		t.Fatal("node4 has no task: nothing to see")
	}
	k := c.call("node1", "node2", "node3").vip("node1")
	k.hear(time.Second)
	c.must("meshctl", "lab", "partition", "--name", c.name, "node4", "node1,node2,node3")
	c.within(30*time.Second, "the lost node's tasks are replaced elsewhere", func() error {
		tasks := c.tasks("node1", "web")
		if i := slices.IndexFunc(tasks, func(tk task) bool { return tk.Node == "node4" }); i >= 0 || len(tasks) != 6 {
			return fmt.Errorf("tasks %v", tasks)
		}
		return nil
	})
	calm := k.calm(3 * time.Second)
	if after := own(); after != before {
		t.Errorf("containers of the node that was cut off changed from %q to %q", before, after)
	}
	c.must("meshctl", "lab", "heal", "--name", c.name)
	c.eventually("all is as desired again", func() error { return c.settled("node1", "web", 6) })
	k.none(calm)
}

// testLeaderCutOff: the majority goes on, the minority says why it cannot.
func testLeaderCutOff(t *testing.T, c *cluster) {
	old := c.leader("node1")
	majority := slices.DeleteFunc([]string{"node1", "node2", "node3"}, func(n string) bool { return n == old })
	c.must("meshctl", "lab", "partition", "--name", c.name, old)
	c.within(15*time.Second, "the majority takes writes", func() error {
		if r := c.docker(majority[0], "service", "update", "-d", "--label-add", "after=cut", "web"); r.code != 0 {
			return fmt.Errorf("service update: %v", r)
		}
		return nil
	})
	for _, args := range [][]string{
		{"service", "update", "-d", "--label-add", "lost=1", "web"},
		{"service", "create", "-d", "--no-resolve-image", "--name", "lost", image},
		{"network", "create", "--driver", "overlay", "lost"},
	} {
		from := time.Now()
		r := c.docker(old, args...)
		took := time.Since(from)
		t.Logf("%s on the minority after %.1fs: %v", strings.Join(args[:2], " "), took.Seconds(), r)
		if r.code == 0 || !strings.Contains(r.err, "leader") && !strings.Contains(r.err, "quorum") || took > 12*time.Second {
			t.Errorf("docker %v on the minority's side, after %v: %v, want a refusal that names the reason within 10 s", args, took, r)
		}
	}
	c.must("meshctl", "lab", "heal", "--name", c.name)
	for _, n := range []string{"node1", "node2", "node3"} {
		c.within(30*time.Second, n+" agrees with the majority", func() error {
			r := c.docker(n, "service", "inspect", "--format", `{{index .Spec.Labels "after"}},{{index .Spec.Labels "lost"}}`, "web")
			if r.out != "cut," {
				return fmt.Errorf("labels: %v", r)
			}
			if l := c.leader(n); l == "" {
				return errors.New("no leader")
			}
			return nil
		})
	}
	c.eventually("all is as desired again", func() error { return c.settled(old, "web", 6) })
}
