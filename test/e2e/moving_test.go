package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// testWorkerMoves: a worker gets another address; its containers go on, and the others reach them there.
func testWorkerMoves(t *testing.T, c *cluster) { c.moves("node4", "node1") }

// testLeaderMoves: a manager's address is also in raft, and in the others' list of managers.
func testLeaderMoves(t *testing.T, c *cluster) {
	leader := c.leader("node1")
	others := slices.DeleteFunc([]string{"node1", "node2", "node3"}, func(n string) bool { return n == leader })
	c.moves(leader, others[0])
	addr := c.address(leader)
	c.eventually("managers know the moved manager", func() error {
		for _, n := range others {
			r := c.docker(n, "node", "inspect", "--format", "{{.ManagerStatus.Addr}} {{.ManagerStatus.Reachability}}", leader)
			if r.out != addr+":2377 reachable" {
				return fmt.Errorf("%s says %v, want %s", n, r, addr)
			}
		}
		return nil
	})
	c.mustDocker(leader, "service", "update", "-d", "--label-add", "moved="+addr, "web")
	for _, n := range others {
		c.eventually(n+" has what the moved manager was told", func() error {
			if r := c.docker(n, "service", "inspect", "--format", `{{index .Spec.Labels "moved"}}`, "web"); r.out != addr {
				return fmt.Errorf("label: %v", r)
			}
			return nil
		})
	}
}

// moves gives a node another address and waits until all know it, and serve there.
func (c *cluster) moves(node, asked string) {
	c.t.Helper()
	own := func() string {
		return c.docker(node, "ps", "-q", "--no-trunc", "--filter", "label=com.docker.swarm.service.name=web").out
	}
	before := own()
	addr := netip.MustParseAddr(c.address(node)).As4()
	addr[3] += 100
	k := c.call(asked).vip(asked)
	k.hear(time.Second)
	from := time.Now()
	if err := c.lab().Readdress(node, netip.AddrFrom4(addr)); err != nil {
		c.t.Fatal(err)
	}
	to := c.address(node)
	c.within(60*time.Second, node+" is known by its new address", func() error {
		r := c.docker(asked, "node", "inspect", "--format", "{{.Status.Addr}} {{.Status.State}}", node)
		if r.out != to+" ready" {
			return fmt.Errorf("node inspect: %v, want %s", r, to)
		}
		return nil
	})
	c.t.Logf("%s moved to %s: known there after %.1fs", node, to, time.Since(from).Seconds())
	c.eventually("all is as desired", func() error { return c.settled(asked, "web", 6) })
	settled := time.Now()
	if after := own(); after != before {
		c.t.Logf("containers of %s changed from %q to %q", node, before, after)
	}
	c.eventually("its published port answers at the new address", func() error {
		if r := c.outside("sample", "get", "-timeout", "2s", "-field", "hostname", "http://"+to+":8080/"); r.code != 0 {
			return fmt.Errorf("get: %v", r)
		}
		return nil
	})
	var callers []task
	for _, tk := range c.tasks(asked, "caller") {
		if tk.Node == node || tk.Node == asked {
			callers = append(callers, tk)
		}
	}
	for _, tk := range callers {
		for _, web := range c.tasks(asked, "web") {
			if web.Node == tk.Node || web.Node != node && tk.Node != node {
				continue
			}
			name := "http://" + strings.ToLower(web.Name+"."+web.ID) + ":8080/"
			c.eventually(tk.Node+" reaches "+name, func() error {
				if r := c.in(tk, "sample", "get", "-timeout", "2s", "-field", "hostname", name); r.code != 0 {
					return fmt.Errorf("get: %v", r)
				}
				return nil
			})
		}
	}
	k.hear(2 * time.Second)
	k.none(settled)
}
