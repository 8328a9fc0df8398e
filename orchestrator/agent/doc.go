// Package agent makes one node run what the managers assigned to it.
//
// Mechanism: the agent holds a session with any one manager. What the manager
// says is applied to a picture (nodes, networks, assignments); the picture goes
// to the data plane, and each assignment has a worker that drives its container
// one step at a time (decide.go: state, desired state and container -> step).
// What the workers observe is queued, newest per task, and flushed whenever a
// session is there; what the kernel holds is acknowledged at once and with
// every heartbeat of the manager, whose answer is the node's own. Without any
// manager everything that runs goes on running.
//
// Containers outlive the agent: a new agent lists those with the node's label
// and goes on where the old one was. Those of tasks that the managers do not
// assign any more are removed, but only once a manager said what is assigned.
//
// | goroutine | owns                                | ends                                  |
// |-----------|-------------------------------------|---------------------------------------|
// | Run       | the worker set, orphans             | with its context, after all others    |
// | engine    | Engine.Run: the engine's events     | with Run                              |
// | session   | stream to a manager, choice of it   | with Run                              |
// | flusher   | delivery of the status queue        | with its session                      |
// | acker     | acknowledgements, heartbeat         | with its session                      |
// | pruner    | networks nobody needs on the engine | with Run                              |
// | saver     | the file of assignments             | with Run, after a last write          |
// | worker    | one task's status and container     | when the assignment is gone, or Run ends |
//
// Locks: Agent.mu guards the worker set, picture.mu the picture, reports.mu the
// status queue, worker.mu a worker's wish and published status. Agent.mu may be
// held while one of the others is taken, never the other way round, and none
// while anything is called that can wait.
package agent
