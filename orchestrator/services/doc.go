// Package services keeps the tasks of each service as the service asks: as many
// as it wants (replicated) or one on each node (global), replaced when they end
// or when their node is lost, rolled over to a new version of the template.
//
// Swarm has a loop for each of these and they write to the same tasks; here one
// pure function decides about one service at a time, from what is stored and
// the clock alone. It has no memory, so a new leader goes on where the old one
// stopped, in the middle of a restart delay or of an update.
//
// This loop alone creates tasks and writes DesiredState. It works on slots: the
// tasks, past and present, of one replica, or of one node if the service is
// global. In a slot
//
//   - a task is wanted while its desired state is ready or running;
//   - a wanted task that ended, whose node is down, drained or gone, or whose node
//     does not satisfy its constraints any more gets desired state shutdown;
//   - a slot without wanted task gets a new one, if the restart policy allows. It
//     starts out with desired state ready: it is placed and prepared at once, and
//     promoted to running after the policy's delay and when its predecessor is gone;
//   - a slot whose policy allows no further task is finished, and stays so until
//     the template changes or the service is scaled down.
//
// decide.go has the frame of a decision, slot.go the rules of one slot,
// restart.go the restart policy, update.go rolling updates and rollbacks.
package services
