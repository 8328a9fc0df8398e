package placement

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

func testNode() *store.Node {
	n := &store.Node{}
	n.ID = "abc123"
	n.Spec.Role = swarm.NodeRoleManager
	n.Spec.Labels = map[string]string{"zone": "East"}
	n.Description.Hostname = "node1"
	n.Description.Platform = swarm.Platform{OS: "linux", Architecture: "x86_64"}
	n.Description.Engine.Labels = map[string]string{"disk": "ssd"}
	n.Status.Addr = "10.1.2.3"
	n.Status.State = swarm.NodeStateReady
	return n
}

func TestConstraints(t *testing.T) {
	for _, tc := range []struct {
		expr string
		want bool
	}{
		{"node.id==abc123", true}, {"node.id != abc123", false},
		{"node.hostname == NODE1", true}, {"node.hostname!=node1", false},
		{"node.role==manager", true}, {"node.role==worker", false}, {"node.role!=worker", true},
		{"node.labels.zone==east", true}, {"node.labels.zone!=west", true}, {"node.labels.none==x", false},
		{"node.labels.none!=x", true}, {"engine.labels.disk==ssd", true}, {"Engine.Labels.disk!=ssd", false},
		{"node.platform.os==linux", true}, {"node.platform.arch==x86_64", true}, {"node.platform.arch==amd64", true},
		{"node.platform.arch!=amd64", false},
		{"node.ip==10.1.2.3", true}, {"node.ip==10.1.0.0/16", true}, {"node.ip!=10.1.0.0/16", false},
		{"node.ip==10.2.0.0/16", false}, {"node.ip!=10.2.0.0/16", true},
		{"node.nonsense==x", false}, {"node.nonsense!=x", false},
	} {
		cs, err := ParseConstraints([]string{tc.expr})
		if err != nil {
			t.Errorf("%s: %v", tc.expr, err)
			continue
		}
		if got := Match(cs, testNode()); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.expr, got, tc.want)
		}
	}
}

func TestBadConstraints(t *testing.T) {
	for expr, want := range map[string]string{
		"node.role=manager": "constraint expected one operator from ==, !=",
		"==manager":         "key '' is invalid",
		"node role==x":      "key 'node role' is invalid",
		"node.role==":       "value '' is invalid",
		"node.role==ä":      "value 'ä' is invalid",
	} {
		if _, err := ParseConstraints([]string{expr}); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", expr, err, want)
		}
	}
}

func TestPlatforms(t *testing.T) {
	for _, tc := range []struct {
		platforms []swarm.Platform
		want      bool
	}{
		{nil, true},
		{[]swarm.Platform{{OS: "linux", Architecture: "amd64"}}, true},
		{[]swarm.Platform{{OS: "linux"}}, true},
		{[]swarm.Platform{{Architecture: "arm64"}}, false},
		{[]swarm.Platform{{OS: "windows"}, {OS: "linux", Architecture: "x86_64"}}, true},
	} {
		if got := OnPlatform(tc.platforms, testNode()); got != tc.want {
			t.Errorf("%v: %v", tc.platforms, got)
		}
	}
}

func TestNodeStates(t *testing.T) {
	for _, tc := range []struct {
		state        swarm.NodeState
		availability swarm.NodeAvailability
		usable, open bool
	}{
		{swarm.NodeStateReady, swarm.NodeAvailabilityActive, true, true},
		{swarm.NodeStateReady, swarm.NodeAvailabilityPause, true, false},
		{swarm.NodeStateReady, swarm.NodeAvailabilityDrain, false, false},
		{swarm.NodeStateDown, swarm.NodeAvailabilityActive, false, false},
		{swarm.NodeStateUnknown, swarm.NodeAvailabilityActive, true, false},
		{swarm.NodeStateDisconnected, swarm.NodeAvailabilityActive, true, false},
	} {
		n := testNode()
		n.Status.State, n.Spec.Availability = tc.state, tc.availability
		if Usable(n) != tc.usable || Open(n) != tc.open {
			t.Errorf("%s/%s: usable %v, open %v", tc.state, tc.availability, Usable(n), Open(n))
		}
	}
	stopping := &store.Node{Stopping: true}
	stopping.Status.State, stopping.Spec.Availability = swarm.NodeStateReady, swarm.NodeAvailabilityActive
	if Usable(stopping) || Open(stopping) {
		t.Error("a node that shuts down keeps its tasks")
	}
	if Usable(nil) || Open(nil) {
		t.Error("a node that is gone is neither")
	}
}
