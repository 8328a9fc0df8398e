// Package scheduler puts tasks on nodes: pending -> assigned.
//
// A node qualifies for a task if it passes every filter (ready and active,
// resources, constraints, platform, host-mode ports, replicas per node). Among
// those that qualify, preferences choose branch by branch the one with the fewest
// tasks of the service; then comes the node on which the task did not keep
// failing, with the fewest tasks of the service, with the fewest tasks.
//
// A task for which no node qualifies stays pending, says in its status how many
// nodes failed which filter, and is tried again when a node changed or something
// on one was freed. The tasks of global services come with their node; the
// filters decide whether they may run there.
//
// What a task costs does not follow from the size of the cluster: the nodes that a
// set of rules allows are kept in order (order.go), and the first without a task of
// the service is taken. Only where that fails all nodes are ranked, once for all
// tasks of a version that wait (rank.go).
//
// The picture of the nodes (node.go) is kept from the store's events. What a round
// has chosen is entered at once, and taken back for what was not stored.
package scheduler
