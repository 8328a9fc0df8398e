// Package churn shakes a cluster while clients call it without pause. Steps are chosen by a printed seed: services scaled and updated, a
// node drained, a container or a daemon killed, a node cut off. Every client notes each of its calls (package probe), and the test compares what they
// saw with what was true:
//
//   - a step that an operator takes in good order loses no request, from its beginning to its end;
//   - after any step, once all nodes have acknowledged what the managers made of it, no client gets a wrong answer for more than a second:
//     no name or address leads to a task that is gone, none misses one that serves. A machine with too much to do is no excuse;
//   - a connection that stands, idle or not, goes on as long as its task: no step ends one to a task that it did not touch.
//
// The clients, of TCP and of UDP, are on a machine outside of the cluster, calling the published ports of each node, and in containers on
// the nodes that no step touches, calling by name and by virtual address and looking the name up. What a client saw of an unorderly step is printed, not judged, but for the time
// that it lasted.
package churn
