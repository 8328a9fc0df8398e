// Package reaper removes from the store what nobody needs any more: tasks that are
// to be removed and have ended, tasks that never reached a node, the history of a
// slot beyond the cluster's limit, and versions of task templates that no task
// and no rollback can come back to.
//
// It never removes what may still run: such a task's addresses, ports and
// resources would be given to others. A task on a node that is down is removed
// only when that is its desired state; should the node come back, it is told its
// tasks anew and stops what is not among them.
//
// The newest task of each slot stays, whatever the limit: whether a slot is
// finished follows from it (see package services).
package reaper
