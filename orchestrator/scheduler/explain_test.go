package scheduler

import (
	"fmt"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

func TestExplain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1, 7, func(i int, n *store.Node) {
			n.Spec.Labels = map[string]string{"zone": "east"}
			n.Description.Platform = swarm.Platform{OS: "linux", Architecture: "amd64"}
			n.Description.Resources = swarm.Resources{MemoryBytes: 150 << 20, NanoCPUs: 2e9}
			switch i {
			case 1:
				n.Spec.Availability = swarm.NodeAvailabilityPause
			case 2:
				n.Status.State = swarm.NodeStateDown
			case 3:
				n.Spec.Labels, n.Description.Resources.NanoCPUs = nil, 1e9
			case 4:
				n.Description.Resources.MemoryBytes = 50 << 20
			case 5:
				n.Description.Platform.OS = "windows"
			}
		})
		spec := func(s *swarm.ServiceSpec) {
			s.TaskTemplate.Placement = &swarm.Placement{
				Constraints: []string{"node.labels.zone==east"}, Platforms: []swarm.Platform{{OS: "linux"}}, MaxReplicas: 1,
			}
			s.TaskTemplate.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{MemoryBytes: 100 << 20, NanoCPUs: 15e8}}
			s.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 80, PublishedPort: 80, PublishMode: swarm.PortConfigPublishModeHost}}}
		}
		w.service("web", spec)
		w.tasks("web", 1, 3)
		w.wantSpread("web", map[string]int{"n6": 1, "n7": 1})
		var stuck *store.Task
		for i := range 3 {
			if task := w.task(fmt.Sprintf("web.%03d", i+1)); task.NodeID == "" {
				stuck = task
			}
		}
		var got []string
		w.store.View(func(v *store.View) {
			for _, verdict := range Explain(v, stuck) {
				got = append(got, verdict.NodeID+": "+strings.Join(verdict.Reasons, "; "))
			}
			placed := w.taskOn(v, "n6")
			for _, verdict := range Explain(v, placed) {
				if (len(verdict.Reasons) == 0) != (verdict.NodeID == "n6") {
					t.Errorf("of the task on n6, %s: %v", verdict.NodeID, verdict.Reasons)
				}
			}
		})
		full := "1.5 CPUs are asked for, 0.5 of 2 are not reserved; 100MiB of memory is asked for, 50MiB of 150MiB is not reserved; " +
			"host-mode port already in use on 1 node: 80/tcp by service web; has 1 tasks of the service, of at most 1 per node"
		want := []string{
			"n1: its availability is pause", "n2: is down",
			"n3: 1.5 CPUs are asked for, 1 of 1 are not reserved; constraint node.labels.zone==east does not hold",
			"n4: 100MiB of memory is asked for, 50MiB of 50MiB is not reserved",
			"n5: the image is not for its platform, windows/amd64", "n6: " + full, "n7: " + full,
		}
		if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
			t.Errorf("got\n%s\nwant\n%s", g, w)
		}
	})
}

// taskOn is a task of a node.
func (w *world) taskOn(v *store.View, node string) *store.Task {
	w.Helper()
	tasks := v.TasksOnNode(node)
	if len(tasks) == 0 {
		w.Fatalf("no task on %s", node)
	}
	return tasks[0]
}
