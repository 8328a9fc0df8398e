package api

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/store"
)

func TestNoManager(t *testing.T) {
	r := newRig(t)
	for state, text := range map[swarm.LocalNodeState]string{
		swarm.LocalNodeStateInactive: `Use "docker swarm init" or "docker swarm join"`,
		swarm.LocalNodeStateActive:   "Worker nodes can't be used to view or modify cluster state",
		swarm.LocalNodeStateLocked:   "Swarm is encrypted and needs to be unlocked",
	} {
		r.node.become(state, nil)
		for _, path := range []string{"/swarm", "/nodes", "/nodes/x", "/services", "/services/x", "/tasks", "/secrets", "/configs/x", "/swarm/unlockkey"} {
			r.do("GET", path, nil).want(503, text)
		}
		r.do("POST", "/services/create", webSpec).want(503, text)
		r.do("POST", "/networks/create", `{"Name":"ov","Driver":"overlay"}`).want(503, text)
	}
	r.node.become(swarm.LocalNodeStateInactive, nil)
	if got := r.do("GET", "/_ping", nil).header.Get("Swarm"); got != "inactive" {
		t.Errorf("ping says %q", got)
	}
	r.do("POST", "/swarm/leave", nil).want(503, "This node is not part of a swarm")
	r.do("POST", "/swarm/unlock", `{"UnlockKey":"k"}`).want(503, "not a swarm manager")
	r.do("POST", "/swarm/init", `{"ListenAddr":"0.0.0.0:2377"}`).want(200, `"node1id"`)
	r.do("POST", "/swarm/init", `{`).want(400, "invalid JSON")
	r.do("POST", "/swarm/init", `{"DataPathPort":80}`).want(400, "data path port")
	r.do("POST", "/swarm/init", `{"Spec":{"Name":"x"}}`).want(400, "default")
	r.node.initErr = fmt.Errorf("could not choose an IP address to advertise: %w", errdefs.ErrInvalidArgument)
	r.do("POST", "/swarm/init", `{}`).want(400, "could not choose an IP address to advertise")

	join := `{"ListenAddr":"0.0.0.0:2377","RemoteAddrs":["192.0.2.1:2377"],"JoinToken":"SWMTKN-1-a-b"}`
	r.do("POST", "/swarm/join", join).want(200, "")
	r.do("POST", "/swarm/join", `{"RemoteAddrs":["192.0.2.1:2377"],"JoinToken":"x"}`).want(400, "ListenAddr")
	r.do("POST", "/swarm/join", `{"ListenAddr":"a","JoinToken":"x"}`).want(400, "RemoteAddr")
	r.do("POST", "/swarm/join", `{"ListenAddr":"a","RemoteAddrs":["b"]}`).want(400, "join token")
	for _, addr := range []string{"", "host name", "http://192.0.2.1"} {
		r.do("POST", "/swarm/join", `{"ListenAddr":"a","RemoteAddrs":["`+addr+`"],"JoinToken":"x"}`).want(400, "RemoteAddr")
	}
	r.node.joinErr = fmt.Errorf("the token is not valid: %w", errdefs.ErrPermissionDenied)
	r.do("POST", "/swarm/join", join).want(403, "the token is not valid")
	r.node.become(swarm.LocalNodeStatePending, nil)
	r.do("POST", "/swarm/join", join).want(503, "already part of a swarm")
	r.node.become(swarm.LocalNodeStateActive, nil)
	r.do("POST", "/swarm/leave", nil).want(200, "")
}

func TestSwarm(t *testing.T) {
	r := newRig(t)
	a := r.do("GET", "/swarm", nil).want(200, "SWMTKN-1-digest-workersecret")
	if strings.Contains(string(a.body), "secret key") {
		t.Fatalf("the CA's key is shown: %s", a.body)
	}
	sw := decode[swarm.Swarm](a)
	r.do("POST", "/swarm/init", `{}`).want(503, "already part of a swarm")
	r.do("POST", "/swarm/leave", nil).want(503, "Removing the last manager erases all current state")
	r.do("POST", "/swarm/leave?force=1", nil).want(200, "")
	r.do("POST", "/swarm/unlock", `{}`).want(409, "swarm is not locked")
	r.do("GET", "/swarm/unlockkey", nil).want(200, `{"UnlockKey":""}`)

	r.do("POST", "/swarm/update", sw.Spec).want(400, "version")
	r.do("POST", "/swarm/update?version=9999", sw.Spec).want(500, "update out of sequence")
	sw.Spec.Orchestration.TaskHistoryRetentionLimit = ptr(int64(2))
	r.do("POST", fmt.Sprintf("/swarm/update?version=%d&rotateWorkerToken=true", sw.Version.Index), sw.Spec).want(200, "")
	next := decode[swarm.Swarm](r.do("GET", "/swarm", nil))
	if next.JoinTokens.Manager != sw.JoinTokens.Manager || next.JoinTokens.Worker == sw.JoinTokens.Worker ||
		!strings.HasPrefix(next.JoinTokens.Worker, "SWMTKN-1-digest-") || len(next.JoinTokens.Worker) != len("SWMTKN-1-digest-")+25 {
		t.Errorf("tokens after rotation: %+v", next.JoinTokens)
	}
	r.control.store.View(func(v *store.View) {
		if c := v.Cluster(); *c.Spec.Orchestration.TaskHistoryRetentionLimit != 2 {
			t.Errorf("spec: %+v", c.Spec)
		}
	})
}

func TestAutolock(t *testing.T) {
	r := newRig(t)
	update := func(on bool, query string) string {
		t.Helper()
		sw := decode[swarm.Swarm](r.do("GET", "/swarm", nil))
		sw.Spec.EncryptionConfig.AutoLockManagers = on
		r.do("POST", fmt.Sprintf("/swarm/update?version=%d%s", sw.Version.Index, query), sw.Spec).want(200, "")
		return decode[swarm.UnlockKeyResponse](r.do("GET", "/swarm/unlockkey", nil).want(200, "")).UnlockKey
	}
	first := update(true, "")
	if key, err := certs.ParseUnlockKey(first); err != nil || len(key) != 32 {
		t.Errorf("unlock key %q: %v", first, err)
	}
	if again := update(true, ""); again != first {
		t.Error("an update that does not concern it changed the unlock key")
	}
	if rotated := update(true, "&rotateManagerUnlockKey=true"); rotated == first || rotated == "" {
		t.Errorf("rotation gave %q", rotated)
	}
	if key := update(false, "&rotateManagerUnlockKey=true"); key != "" {
		t.Errorf("without autolock the unlock key is %q", key)
	}
	if text := string(r.do("GET", "/swarm", nil).body); strings.Contains(text, "SWMKEY") {
		t.Errorf("the swarm shows its unlock key: %s", text)
	}
	r.node.become(swarm.LocalNodeStateLocked, nil)
	r.do("POST", "/swarm/unlock", `{"UnlockKey":"wrong"}`).want(400, "invalid key provided")
	r.do("POST", "/swarm/unlock", `{"UnlockKey":"right"}`).want(200, "")
}

// TestManagerLeaves: what it costs the others decides whether it needs force.
// Where the founder named no pool, clients see what is done instead.
func TestSwarmShowsItsPools(t *testing.T) {
	r := newRig(t)
	show := func() string {
		t.Helper()
		sw := decode[swarm.Swarm](r.do("GET", "/swarm", nil).want(200, ""))
		info := decode[struct{ Swarm swarm.Info }](r.do("GET", "/info", nil).want(200, "")).Swarm.Cluster
		text := fmt.Sprint(sw.DefaultAddrPool, sw.SubnetSize)
		if other := fmt.Sprint(info.DefaultAddrPool, info.SubnetSize); other != text {
			t.Errorf("swarm inspect shows %s, info %s", text, other)
		}
		return text
	}
	if got := show(); got != "[10.0.0.0/8] 18" {
		t.Errorf("none named: %s", got)
	}
	r.change(func(tx *store.Tx) error {
		c := *tx.Cluster()
		c.DefaultAddrPool, c.SubnetSize = []netip.Prefix{netip.MustParsePrefix("172.20.0.0/16")}, 26
		tx.Update(&c)
		return nil
	})
	if got := show(); got != "[172.20.0.0/16] 26" {
		t.Errorf("named: %s", got)
	}
}

func TestManagerLeaves(t *testing.T) {
	r := newRig(t)
	left := func() bool {
		r.node.mu.Lock()
		defer r.node.mu.Unlock()
		was := r.node.left
		r.node.left = false
		return was
	}
	refused := func(text string) {
		t.Helper()
		r.do("POST", "/swarm/leave", nil).want(503, text)
		if left() {
			t.Fatal("it left nevertheless")
		}
	}
	const head = "participating as a manager. "
	refused(head + "Removing the last manager erases all current state")
	r.create(testNode("m2", "node3", swarm.NodeRoleManager, swarm.NodeStateReady))
	refused(head + "Removing this node leaves 1 managers out of 2. Without a Raft quorum")
	r.create(testNode("m3", "node4", swarm.NodeRoleManager, swarm.NodeStateReady))
	r.do("POST", "/swarm/leave", nil).want(200, "")
	if !left() {
		t.Fatal("it did not leave")
	}
	r.change(func(tx *store.Tx) error {
		n := *tx.Node("m3")
		n.ManagerStatus = &swarm.ManagerStatus{Reachability: swarm.ReachabilityUnreachable}
		tx.Update(&n)
		return nil
	})
	refused(head + "Removing this node leaves 1 managers out of 3. Without a Raft quorum")
	r.create(testNode("m4", "node5", swarm.NodeRoleManager, swarm.NodeStateReady),
		testNode("m5", "node6", swarm.NodeRoleManager, swarm.NodeStateReady))
	r.node.leaveErr = fmt.Errorf("others died just now: %w", errdefs.ErrFailedPrecondition)
	refused(head + "others died just now")
	r.node.leaveErr = nil
	r.do("POST", "/swarm/leave", nil).want(200, "")
	r.control.barrierErr = errors.New("no quorum") // then it is for the node to find out
	r.do("POST", "/swarm/leave?force=1", nil).want(200, "")
}

func TestNoLeader(t *testing.T) {
	r := newRig(t)
	r.control.barrierErr = errors.New("no quorum")
	r.do("GET", "/services", nil).want(503, "The swarm does not have a leader")
	r.do("POST", "/services/create", webSpec).want(503, "The swarm does not have a leader")
	r.do("GET", "/info", nil).want(200, "The swarm does not have a leader")
	r.do("GET", "/networks/mine", nil).want(200, "mineid")
	r.do("GET", "/networks", nil).want(200, "ingressid")
	r.do("DELETE", "/networks/mine", nil).want(201, "DELETE /networks/mine") // the fake engine's answer
	r.do("DELETE", "/networks/ingress", nil).want(503, "The swarm does not have a leader")
	r.control.barrierErr = nil
	r.control.Refuse(func(store.Batch) error { return context.DeadlineExceeded })
	r.do("POST", "/services/create", webSpec).want(503, "The swarm does not have a leader")
}

func TestNodes(t *testing.T) {
	r := newRig(t)
	nodes := decode[[]swarm.Node](r.do("GET", "/nodes", nil).want(200, ""))
	if len(nodes) != 2 || nodes[0].ManagerStatus == nil || !nodes[0].ManagerStatus.Leader || nodes[1].ManagerStatus != nil {
		t.Fatalf("nodes: %+v", nodes)
	}
	r.do("GET", "/nodes?filters=%7B%22role%22%3A%5B%22x%22%5D%7D", nil).want(400, "role")
	r.do("GET", "/nodes?filters=%7B%22role%22%3A%5B%22worker%22%5D%7D", nil).want(200, "node2")
	n := decode[swarm.Node](r.do("GET", "/nodes/node2", nil).want(200, "node2id"))
	r.do("GET", "/nodes/nope", nil).want(404, "node nope not found")
	update := func(id string, version uint64, body string) answer {
		return r.do("POST", fmt.Sprintf("/nodes/%s/update?version=%d", id, version), body)
	}
	update("node2id", n.Version.Index, `{"Role":"boss","Availability":"active"}`).want(400, "Role")
	update("node2id", n.Version.Index, `{"Role":"worker","Availability":"active","Labels":{"mesh.weight":"257"}}`).want(400, "mesh.weight=257: must be a number from 0 to 256")
	update("node2id", 9999, `{"Role":"worker","Availability":"active"}`).want(500, "out of sequence")
	update("node1id", nodes[0].Version.Index, `{"Role":"worker","Availability":"active"}`).want(400, "attempting to demote the last manager of the swarm")
	update("node2id", n.Version.Index, `{"Role":"worker","Availability":"drain","Labels":{"a":"b"}}`).want(200, "")
	n = decode[swarm.Node](r.do("GET", "/nodes/node2id", nil))
	if n.Spec.Availability != "drain" || n.Spec.Labels["a"] != "b" {
		t.Errorf("updated: %+v", n.Spec)
	}
	r.do("DELETE", "/nodes/node1?force=1", nil).want(400, "is a cluster manager")
	r.do("DELETE", "/nodes/node2", nil).want(400, "is not down and can't be removed")
	r.do("DELETE", "/nodes/node2?force=1", nil).want(200, "")
	r.control.store.View(func(v *store.View) {
		if v.Node("node2id") != nil || v.Cluster().BlockedNodes["node2id"].IsZero() {
			t.Errorf("the removed node is not blocked: %v", v.Cluster().BlockedNodes)
		}
	})
	r.create(testNode("x1", "twin", swarm.NodeRoleWorker, swarm.NodeStateDown), testNode("x2", "twin", swarm.NodeRoleWorker, swarm.NodeStateDown))
	r.do("GET", "/nodes/twin", nil).want(400, "node twin is ambiguous (2 matches found)")
	r.do("DELETE", "/nodes/x1", nil).want(200, "")
}

func TestDemotionThatWouldCostTheQuorumIsRefused(t *testing.T) {
	r := newRig(t)
	r.create(testNode("m2", "second", swarm.NodeRoleManager, swarm.NodeStateReady), testNode("m3", "third", swarm.NodeRoleManager, swarm.NodeStateDown))
	demote := func(id string) answer {
		n := decode[swarm.Node](r.do("GET", "/nodes/"+id, nil))
		return r.do("POST", fmt.Sprintf("/nodes/%s/update?version=%d", id, n.Version.Index), `{"Role":"worker","Availability":"active"}`)
	}
	r.control.silent = []string{"m3"}
	demote("second").want(409, "of the 2 others that vote, 1 do not answer: third (m3)")
	if n := decode[swarm.Node](r.do("GET", "/nodes/m2", nil)); n.Spec.Role != swarm.NodeRoleManager {
		t.Errorf("the refusal changed the node: %+v", n.Spec)
	}
	r.control.silent = nil
	demote("third").want(200, "")
}

func TestInfoWarnsOfABadNumberOfManagers(t *testing.T) {
	r := newRig(t)
	info := func() string { return string(r.do("GET", "/info", nil).want(200, "").body) }
	const two = "WARNING: 2 managers: the loss of either stops all changes; add a third, or demote one"
	if strings.Contains(info(), "managers:") {
		t.Errorf("info warns of one manager: %s", info())
	}
	r.create(testNode("m2", "second", swarm.NodeRoleManager, swarm.NodeStateReady))
	if !strings.Contains(info(), two) {
		t.Errorf("info does not warn of two managers: %s", info())
	}
	r.create(testNode("m3", "third", swarm.NodeRoleManager, swarm.NodeStateReady))
	if strings.Contains(info(), "WARNING: ") {
		t.Errorf("info warns of three managers: %s", info())
	}
}

func TestPanicIsAnswered(t *testing.T) {
	r := newRig(t)
	r.create(&store.Task{}) // a task of no service on no node: nothing here may trip over it
	r.do("GET", "/tasks", nil).want(200, "")
	broken := New(Config{Node: nil, Engine: r.engine.socket})
	socket := t.TempDir() + "/s"
	serve(t, socket, broken.Serve)
	r.client = clientOf(socket)
	r.do("GET", "/services", nil).want(500, "internal error of meshd")
	r.do("GET", "/services", nil).want(500, "internal error of meshd")
}
