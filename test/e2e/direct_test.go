package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/probe"
)

// TestDirectRouting changes the way between nodes, while clients call without pause: node1 and node2 are on one link, node3 has
// direct routing switched off.
func TestDirectRouting(t *testing.T) {
	requireMachine(t)
	flags := wrap(t, lab.Meshd)
	flags("node3", "--direct-routing=off")
	c := up(t, "e2edirect", "--nodes", "3", "--managers", "1")
	c.must("meshctl", "lab", "load", "--name", c.name, "../../build/sample.tar")
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "net")
	c.mustDocker("node1", "service", "create", "-d", "--no-resolve-image", "--name", "web", "--mode", "global", "--network", "net", "--publish", "8080:8080", image)
	c.mustDocker("node1", "service", "create", "-d", "--no-resolve-image", "--name", "caller", "--mode", "global", "--network", "net", image, "sleep")
	c.running("node1", "web", 3)
	c.running("node1", "caller", 3)
	c.travels("node1", 1, 1)
	c.travels("node2", 1, 1)
	c.travels("node3", 0, 2)

	testDirectReturn(t, c)
	testDirectReturnDrains(t, c)

	k := c.call("node1", "node3").vip("node1").vip("node3").straight("node1")
	for from, to := range map[string]string{"node1": "node2", "node2": "node1", "node3": "node1"} {
		k.task(from, to)
	}
	k.hear(time.Second)
	began := time.Now()
	for _, mode := range []string{"off", "auto"} {
		flags("node2", "--direct-routing="+mode)
		c.signal("node2", lab.Meshd, syscall.SIGKILL)
		c.must("meshctl", "lab", "start", "--name", c.name, "node2")
		direct := map[string]int{"auto": 1}[mode]
		c.travels("node1", direct, 2-direct)
		c.travels("node2", direct, 2-direct)
		c.travels("node3", 0, 2)
		k.hear(time.Second)
	}
	k.none(began)

	// A router comes between two of them.
	hub := strings.Fields(c.on("node1", "ip", "route", "show", "default").out)[2]
	for from, to := range map[string]string{"node1": "node2", "node2": "node1"} {
		if r := c.on(from, "ip", "route", "add", c.address(to)+"/32", "via", hub); r.code != 0 {
			t.Fatal(r)
		}
	}
	c.travels("node1", 0, 2)
	c.travels("node2", 0, 2)
	k = c.call("node1").vip("node1").straight("node1")
	k.task("node1", "node2")
	k.task("node2", "node1")
	began = time.Now()
	k.hear(2 * time.Second)
	k.none(began)
}

// travels waits until a node sends so to its peers.
func (c *cluster) travels(node string, direct, tunnelled int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s sends to %d nodes directly", node, direct), func() error {
		d, v := c.metric(node, `meshd_peers{transport="direct"}`), c.metric(node, `meshd_peers{transport="vxlan"}`)
		if int(d) != direct || int(v) != tunnelled {
			return fmt.Errorf("%v directly, %v through the tunnel", d, v)
		}
		return nil
	})
}

// task adds a client in a container on a node, which calls the task on another by its own address.
func (k *calls) task(from, to string) {
	c := k.c
	c.t.Helper()
	for _, tk := range c.tasks("node1", "caller") {
		if tk.Node != from {
			continue
		}
		addr := c.in(tk, "sample", "lookup", to+".web")
		if addr.code != 0 {
			c.t.Fatalf("look the task on %s up: %v", to, addr)
		}
		k.start(probe.Spec{Node: from, PID: c.pid(tk), Target: "http://" + addr.out + ":8080/"})
	}
}
