package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A lab of its own: names change as services come and go.
const dnsLab = "e2edns"

func TestNames(t *testing.T) {
	requireMachine(t)
	c := up(t, dnsLab, "--nodes", "2", "--managers", "1")
	c.must("meshctl", "lab", "load", "--name", dnsLab, "../../build/sample.tar")
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "front")
	c.mustDocker("node1", "service", "create", "--name", "web", "--network", "name=front,alias=www", "--replicas", "2", "--hostname", "{{.Node.Hostname}}-{{.Task.Slot}}",
		"--publish", "8080:8080", "--label", "mesh.port.http=8080", "--label", "mesh.port.echo=9000/udp", "--detach=false", "-q", image)
	c.running("node1", "web", 2)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"of tasks", testNamesOfTasks},
		{"of ports", testNamesOfPorts},
		{"of others", testNamesOfOthers},
		{"of the unready", testNamesOfTheUnready},
		{"of the gone", testNamesOfTheGone},
		{"of attached containers", testAttached},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, c.sub(t)) }) {
			return
		}
	}
}

// lookup gives the sorted lines that a look-up in a task prints.
func (c *cluster) lookup(from task, args ...string) ([]string, error) {
	c.t.Helper()
	r := c.in(from, append([]string{"sample", "lookup"}, args...)...)
	if r.code != 0 {
		return nil, fmt.Errorf("lookup %s: %v", strings.Join(args, " "), r)
	}
	lines := strings.Split(r.out, "\n")
	slices.Sort(lines)
	return lines, nil
}

// gives waits until a name has n answers, and returns them.
func (c *cluster) gives(from task, n int, args ...string) (got []string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s gives %d", strings.Join(args, " "), n), func() (err error) {
		if got, err = c.lookup(from, args...); err == nil && len(got) != n {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
	return got
}

func testNamesOfTasks(t *testing.T, c *cluster) {
	from := c.tasks("node1", "web")[0]
	tasks := c.gives(from, 2, "tasks.web")
	for _, names := range [][]string{{"1.web", "2.web"}, {"1.www", "2.www.front"}, {"node1.web", "node2.web"}} {
		var got []string
		for _, name := range names {
			got = append(got, c.gives(from, 1, name)...)
		}
		if slices.Sort(got); !slices.Equal(got, tasks) {
			t.Errorf("%v = %v, want the tasks' addresses %v", names, got, tasks)
		}
	}
	for _, name := range []string{"all.web", "all.www", "tasks.www", "tasks.web.front"} {
		if got := c.gives(from, 2, name); !slices.Equal(got, tasks) {
			t.Errorf("%s = %v, want %v", name, got, tasks)
		}
	}
	both := c.tasks("node1", "web")
	for i, tk := range both {
		from := both[1-i] // a container finds itself in its /etc/hosts, too
		id := c.mustDocker(tk.Node, "ps", "--no-trunc", "-q", "--filter", "name="+tk.Name+"."+tk.ID)
		byID, byName := c.gives(from, 1, id[:12]), c.gives(from, 1, tk.Name+"."+tk.ID)
		if byID[0] != byName[0] || !slices.Contains(tasks, byID[0]) {
			t.Errorf("container %s has %v by ID and %v by name", tk.Name, byID, byName)
		}
		if got := c.gives(from, 1, "-reverse", byID[0]); got[0] != tk.Name+"."+tk.ID+".front." {
			t.Errorf("%s is called %v, want %s", byID, got, tk.Name)
		}
		host := tk.Node + "-" + strings.TrimPrefix(tk.Name, "web.")
		if got := c.gives(from, 1, strings.ToUpper(host)+".Front"); !slices.Equal(got, byID) {
			t.Errorf("container %s has %v by ID and %v by its host name %s", tk.Name, byID, got, host)
		}
	}
}

func testNamesOfPorts(t *testing.T, c *cluster) {
	from := c.tasks("node1", "web")[0]
	for name, port := range map[string]string{"_http._tcp.web": "8080", "_8080._tcp.www": "8080", "_echo._udp.web.front": "9000"} {
		for _, line := range c.gives(from, 2, "-type", "SRV", name) {
			f := strings.Fields(line)
			if len(f) != 4 || f[2] != port {
				t.Fatalf("%s: %q", name, line)
			}
			if got := c.gives(from, 1, strings.TrimSuffix(f[3], ".")); !slices.Contains(c.gives(from, 2, "tasks.web"), got[0]) {
				t.Errorf("%s leads to %s at %v", name, f[3], got)
			}
		}
	}
	if got := c.gives(from, 1, "-type", "ANY", "web"); !strings.Contains(got[0], "RFC8482") {
		t.Errorf("ANY: %v", got)
	}
}

// testNamesOfTheUnready: its health is not known for ten minutes.
func testNamesOfTheUnready(t *testing.T, c *cluster) {
	c.mustDocker("node1", "service", "create", "--name", "slow", "--network", "front", "--replicas", "2", "--endpoint-mode", "dnsrr",
		"--health-cmd", "true", "--health-interval", "10m", "-d", image)
	from := c.tasks("node1", "web")[0]
	all := c.gives(from, 2, "all.slow")
	if got := append(c.gives(from, 1, "1.slow"), c.gives(from, 1, "2.slow")...); !slices.Contains(got, all[0]) || !slices.Contains(got, all[1]) {
		t.Errorf("the slots have %v, all have %v", got, all)
	}
	for _, name := range []string{"slow", "tasks.slow"} {
		if got, err := c.lookup(from, "-type", "A", name); err != nil || !slices.Equal(got, []string{"NOERROR"}) {
			t.Errorf("%s = %v, %v; want a name without an address", name, got, err)
		}
	}
}

func testNamesOfTheGone(t *testing.T, c *cluster) {
	c.mustDocker("node1", "service", "scale", "-d", "web=1")
	c.running("node1", "web", 1)
	from := c.tasks("node1", "web")[0]
	left := c.gives(from, 1, "tasks.web")
	if got := c.gives(from, 1, "all.web"); got[0] != left[0] {
		t.Errorf("all.web = %v, want %v", got, left)
	}
	c.gives(from, 1, "-type", "SRV", "_http._tcp.web")
	c.mustDocker("node1", "service", "rm", "slow")
	c.eventually("the removed service has no name", func() error {
		if got, err := c.lookup(from, "-type", "A", "all.slow"); err == nil {
			return fmt.Errorf("it has: %v", got)
		}
		return nil
	})
}
