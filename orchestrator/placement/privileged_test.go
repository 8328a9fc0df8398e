package placement

import (
	"fmt"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

func TestPowerOf(t *testing.T) {
	for _, tc := range []struct{ label, value, want string }{
		{"a", "b", "{false []}"},
		{LabelPrivileged, "true", "{true []}"},
		{LabelPrivileged, "false", "{false []}"},
		{LabelPrivileged, "yes", "neither true nor false"},
		{LabelDevices, "/dev/fuse", "{false [{/dev/fuse /dev/fuse rwm}]}"},
		{LabelDevices, "/dev/a:/dev/b:r, /dev/c:/dev/d", "{false [{/dev/a /dev/b r} {/dev/c /dev/d rwm}]}"},
		{LabelDevices, "", "is not HOST-PATH"},
		{LabelDevices, "fuse", "is not HOST-PATH"},
		{LabelDevices, "/dev/a:/dev/b:x", "no selection"},
		{LabelDevices, "/dev/a:/dev/b:r:w", "is not HOST-PATH"},
	} {
		p, err := PowerOf(&swarm.ContainerSpec{Labels: map[string]string{tc.label: tc.value}})
		got := fmt.Sprint(p)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tc.want) {
			t.Errorf("%s=%s: %s, want %s", tc.label, tc.value, got, tc.want)
		}
	}
}

func TestPrivilegedTasksGoWhereTheyMay(t *testing.T) {
	rules, err := RulesOf(&swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Labels: map[string]string{LabelDevices: "/dev/fuse"}}})
	if err != nil {
		t.Fatal(err)
	}
	n := &store.Node{}
	if rules.Allow(n) {
		t.Error("a node that says nothing gets the task")
	}
	n.Description.Engine.Labels = map[string]string{LabelAllowed: "true"}
	if !rules.Allow(n) {
		t.Error("a node that allows it does not get the task")
	}
}
