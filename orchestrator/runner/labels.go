package runner

import (
	"maps"

	"github.com/meshd/meshd/orchestrator/agent"
)

// Labels of task containers, as Swarm sets them; many programs depend on them.
const (
	labelTask        = "com.docker.swarm.task"
	labelTaskID      = "com.docker.swarm.task.id"
	labelTaskName    = "com.docker.swarm.task.name"
	labelNodeID      = "com.docker.swarm.node.id"
	labelServiceID   = "com.docker.swarm.service.id"
	labelServiceName = "com.docker.swarm.service.name"
)

// labelOurs, with the task's ID, marks the containers that this program made.
const labelOurs = "mesh.task"

// labelNetwork on an engine network, and the option of the same name, hold the
// ID of the cluster network it stands for.
const labelNetwork = "mesh.network"

// Options that the network driver gets.
const (
	optVNI  = "mesh.vni"
	optMesh = "mesh.mesh"
	optTask = "mesh.task" // on an endpoint: whose it is
	// optNoIPv4: the IPv4 addresses that the engine gives are to be left aside.
	optNoIPv4 = "mesh.no-ipv4"
)

// labels are the user's, overridden by the system's.
func labels(t agent.Task) map[string]string {
	out := map[string]string{}
	maps.Copy(out, t.Task.Spec.ContainerSpec.Labels)
	maps.Copy(out, t.Task.Labels)
	maps.Copy(out, map[string]string{
		labelOurs:        t.Task.ID,
		labelTask:        "",
		labelTaskID:      t.Task.ID,
		labelTaskName:    agent.Name(t.Task, t.ServiceName),
		labelNodeID:      t.Task.NodeID,
		labelServiceID:   t.Task.ServiceID,
		labelServiceName: t.ServiceName,
	})
	return out
}
