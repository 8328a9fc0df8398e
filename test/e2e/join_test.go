package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestJoin tries what a machine that wants to join may do wrong, on two labs of
// bare nodes side by side.
func TestJoin(t *testing.T) {
	requireMachine(t)
	a := up(t, "e2ea", "--nodes", "3", "--bare")
	b := up(t, "e2eb", "--nodes", "1", "--bare")
	addr := a.address("node1")
	a.mustDocker("node1", "swarm", "init", "--advertise-addr", addr)
	b.mustDocker("node1", "swarm", "init", "--advertise-addr", b.address("node1"))
	worker := a.mustDocker("node1", "swarm", "join-token", "-q", "worker")
	if !strings.HasPrefix(worker, "SWMTKN-1-") || len(strings.Split(worker, "-")) != 4 {
		t.Errorf("token %q has not Swarm's form", worker)
	}
	foreign := b.mustDocker("node1", "swarm", "join-token", "-q", "worker")
	join := func(token, to string) result { return a.docker("node2", "swarm", "join", "--token", token, to) }

	a.refused(join("SWMTKN-1-nonsense", addr+":2377"), "invalid join token")
	a.refused(join(foreign, addr+":2377"), "another cluster")
	a.refused(join(worker[:len(worker)-25]+strings.Repeat("0", 25), addr+":2377"), "valid join token")
	a.refused(join(worker, a.address("node3")+":2377"), "refused")
	rotated := a.mustDocker("node1", "swarm", "join-token", "--rotate", "-q", "worker")
	if rotated == worker {
		t.Error("rotation left the token as it was")
	}
	a.refused(join(worker, addr+":2377"), "valid join token")
	if state := a.mustDocker("node2", "info", "--format", "{{.Swarm.LocalNodeState}}"); state != "inactive" {
		t.Errorf("after refused joins the node is %s", state)
	}

	if r := join(rotated, addr+":2377"); r.code != 0 {
		t.Fatalf("join: %v", r)
	}
	a.mustDocker("node3", "swarm", "join", "--token", a.mustDocker("node1", "swarm", "join-token", "-q", "manager"), addr+":2377")
	a.refused(a.docker("node3", "swarm", "leave"), "Without a Raft quorum")
	a.eventually("all are ready", func() error {
		return readyNodes(a, "node3", 3)
	})
	// With three managers one may leave unforced, even the one that leads, and it stays away.
	a.mustDocker("node1", "node", "promote", "node2")
	a.eventually("there are three managers", func() error {
		r := a.docker("node2", "node", "ls", "--format", "{{.ManagerStatus}}")
		if strings.Count(r.out, "Reachable") != 2 || a.leader("node2") == "" {
			return fmt.Errorf("node ls: %v", r)
		}
		return nil
	})
	lead := a.leader("node1")
	a.mustDocker(lead, "swarm", "leave")
	for _, n := range []string{"node1", "node2", "node3"} {
		if n == lead {
			continue
		}
		a.eventually(n+" has another leader", func() error {
			if l := a.leader(n); l == "" || l == lead {
				return fmt.Errorf("leader is %q", l)
			}
			return readyNodes(a, n, 2)
		})
		addr = a.address(n)
	}
	if state := a.mustDocker(lead, "info", "--format", "{{.Swarm.LocalNodeState}}"); state != "inactive" {
		t.Errorf("after leaving the former leader is %s", state)
	}
	again := a.mustDocker(a.other(lead), "swarm", "join-token", "-q", "worker")
	if r := a.docker(lead, "swarm", "join", "--token", again, addr+":2377"); r.code != 0 {
		t.Errorf("join after leaving: %v", r)
	}
	b.mustDocker("node1", "swarm", "leave", "--force")
}

// other is a node of the three that is not the given one.
func (c *cluster) other(node string) string {
	if node == "node1" {
		return "node2"
	}
	return "node1"
}
