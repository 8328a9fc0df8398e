// Package runner runs tasks as containers of the node's Docker Engine. It is
// the only importer of the engine's client.
//
// Mechanism: a task becomes one container (spec.go maps it, purely) on engine
// networks of the driver "meshd" that are made on demand (networks.go); the
// engine pulls what is missing. The addresses are given, so the engine's own
// address management only checks them. The engine's restart policies are never
// used: whether a task runs again is the orchestrator's business.
//
// What happens to containers is learned from one event stream per node
// (events.go). Each container that somebody waits for has a watch; after every
// gap in the stream all watches are told to look for themselves, so that a
// restart of the engine loses nothing. Nothing is polled.
//
// | goroutine | owns                          | ends             |
// |-----------|-------------------------------|------------------|
// | Run       | the event stream; the agent   | with its context |
// |           | starts it                     |                  |
//
// Secrets and configs are files in memory (files.go, memory_linux.go), mounted
// one by one and removed when the container has stopped; templates among them are
// filled in here (payload.go), where the task's node and slot are known.
//
// Locks: hub.mu guards the set of watches, watch.mu one watch (taken under
// hub.mu), Runner.mu the engine networks known to exist, whose container
// is whose, and the making of the file system in memory.
package runner
