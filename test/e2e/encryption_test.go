package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/probe"
)

// rotating makes the test of encryption a long one: go test ./test/e2e -timeout 2h -run TestNetworkCanBeSeen/encryption -e2e.rotating=1h
var rotating = flag.Duration("e2e.rotating", 0, "how long the nodes' keys change every minute under traffic, before they change by command")

// Containers on an encrypted network call each other over both nodes, by IPv4 the one way and by IPv6 the other, while the keys change and a daemon
// dies: new connections, idle ones, a stream and numbered datagrams. That nothing of it is to be read on the wire the tests of overlay see.
func testEncryption(t *testing.T, c *cluster) {
	c.shut("node2", "udp", "51820-51821")
	c.mustDocker("node1", "network", "create", "--driver", "overlay", "--ipv6", "--opt", "encrypted", "secret")
	c.mustDocker("node1", "service", "create", "--name", "vault", "--network", "secret", "--mode", "global", "-d", image)
	c.running("node1", "vault", 2)
	c.eventually("it is told that there is no way but in the clear", func() error { return c.tellsUnsealed("node1", "node2") })
	c.reopen("node2")
	for _, node := range []string{"node1", "node2"} {
		c.eventually(node+" encrypts", func() error { return c.encrypts(node) })
	}
	near, far := c.taskOf("vault", "node1"), c.taskOf("vault", "node2")
	trace := c.meshctl("node1", "net", "trace", near.Name+"."+near.ID, far.Name+"."+far.ID)
	if trace.code != 0 || !strings.Contains(trace.out, "encryption") {
		t.Errorf("net trace: %v", trace)
	}
	k := c.call()
	k.start(patient(c.calling(near, c.addrOn(far, "secret"))))
	k.start(patient(c.calling(far, "["+c.gives(far, 1, "-type", "AAAA", "node1.vault")[0]+"]")))
	k.hold()
	k.start(patient(c.calling(near, c.in(near, "sample", "lookup", "-type", "A", "vault").out)))
	k.hear(time.Second)
	began := time.Now()
	if *rotating > 0 {
		c.rotatesEveryMinute(k, *rotating)
	}
	c.eventually("the keys change by command", c.changeKeys)
	c.signal("node2", lab.Meshd, syscall.SIGKILL)
	c.must("meshctl", "lab", "start", "--name", c.name, "node2")
	c.eventually("that has ended, and another change may begin", c.changeKeys)
	k.hear(2 * time.Second)
	k.none(began)
}

// tellsUnsealed says who does not tell that a node cannot be reached encrypted.
func (c *cluster) tellsUnsealed(by, node string) error {
	if r := c.meshctl(by, "net", "check"); r.code == 0 || !strings.Contains(r.out+r.err, "way to node "+node) {
		return fmt.Errorf("net check: %v", r)
	}
	if age := c.metric(by, fmt.Sprintf("meshd_wireguard_handshake_age_seconds{node=%q}", node)); !math.IsInf(age, 1) {
		return fmt.Errorf("metrics: the last handshake was %v seconds ago", age)
	}
	if found := c.problems(); !strings.Contains(found, by+": encryption: no WireGuard session with "+node) {
		return fmt.Errorf("doctor: %s", found)
	}
	return nil
}

// encrypts says what is missing until a node has a WireGuard session with the other one.
func (c *cluster) encrypts(node string) error {
	ages := c.metrics(node, "meshd_wireguard_handshake_age_seconds")
	for _, age := range ages {
		if age < 180 && c.metric(node, `meshd_peers{transport="wireguard"}`) == 1 {
			return nil
		}
	}
	return fmt.Errorf("handshakes: %v", ages)
}

// patient are calls of a client that leaves time to a busy machine: what is lost stays lost.
func patient(s probe.Spec) probe.Spec {
	s.Every, s.Timeout = 100*time.Millisecond, 20*time.Second
	return s
}

// rotatesEveryMinute leaves the change of keys to the managers for a while.
func (c *cluster) rotatesEveryMinute(k *calls, d time.Duration) {
	c.t.Helper()
	before := c.keyEpoch("node2")
	if r := c.meshctl("node1", "swarm", "rotate-keys", "--every", "1m"); r.code != 0 {
		c.t.Fatalf("rotate-keys --every 1m: %v", r)
	}
	k.hear(d)
	changes := c.keyEpoch("node2") - before
	c.t.Logf("the keys changed %d times in %v", changes, d)
	if int(changes) < int(d/time.Minute)*3/4 { // a change may wait for a node that is busy
		c.t.Errorf("the keys changed only %d times in %v", changes, d)
	}
	if r := c.meshctl("node1", "swarm", "rotate-keys", "--every", "24h"); r.code != 0 {
		c.t.Fatalf("rotate-keys --every 24h: %v", r)
	}
}

// changeKeys has all nodes change their keys, unless some are still at it.
func (c *cluster) changeKeys() error {
	r := c.meshctl("node1", "swarm", "rotate-keys")
	if r.code == 0 {
		return nil
	}
	if !strings.Contains(r.err, "the last change of the nodes' keys has not ended on") {
		c.t.Errorf("a change of keys is refused for another reason: %v", r)
	}
	return fmt.Errorf("rotate-keys: %v", r)
}

// keyEpoch is that of a node's newest WireGuard key.
func (c *cluster) keyEpoch(node string) uint64 {
	c.t.Helper()
	var keys []struct{ Epoch uint64 }
	r := c.on(node, "cat", filepath.Join("/var/lib/meshd-lab", c.name, node, "meshd", "wireguard.json"))
	if err := json.Unmarshal([]byte(r.out), &keys); err != nil || len(keys) == 0 {
		c.t.Fatalf("keys of %s: %v, %v", node, err, r)
	}
	return keys[0].Epoch
}

// testRemovedNode: whoever is removed from the swarm reaches no container on encrypted networks any more, whatever its own daemon does.
func testRemovedNode(t *testing.T, c *cluster) {
	near, far := c.taskOf("vault", "node1"), c.taskOf("vault", "node2")
	k := c.call()
	k.start(c.calling(far, c.addrOn(near, "secret")))
	k.hear(time.Second)
	c.signal("node2", lab.Meshd, syscall.SIGKILL) // it would stop its tasks
	k.calm(time.Second)
	removed := time.Now()
	c.mustDocker("node1", "node", "rm", "--force", "node2")
	p, last := k.probes[0], removed
	c.eventually("no call of the removed node arrives any more", func() error {
		for _, s := range p.Between(last, time.Now()) {
			if s.OK {
				last = s.Start.Add(s.Took)
			}
		}
		if time.Since(last) < 2*p.Timeout {
			return fmt.Errorf("the last one %v after the order", last.Sub(removed))
		}
		return nil
	})
	t.Logf("the last call was answered %.2fs after the order", last.Sub(removed).Seconds())
}
