// Package api serves Docker's Engine API on a local socket. The swarm side of
// the API (swarm, nodes, services, tasks, secrets, configs, overlay networks) is
// answered here from the replicated store; all else goes unchanged to the
// node's own Docker Engine.
//
// The way of a request: Server.ServeHTTP (panic guard, common headers) strips
// and checks the version prefix, the route table finds the handler, and what no
// route claims is proxied, its prefix rewritten to a version the engine speaks.
// A handler of the swarm side runs behind onManager: it is refused unless this
// node is a manager, and runs only after Control.Barrier, so that a client that
// wrote through one manager and reads from another sees its own writes.
//
// What can be decided without the store (validate.go, defaults.go, filter.go,
// subnet.go, ports.go) is pure. Handlers return errors; fault.go maps them to a
// status and Docker's {"message"} body in one place.
//
// | goroutine                    | owns                       | ends           |
// |------------------------------|----------------------------|----------------|
// | one per request              | its response               | with request   |
// | events: engine's reader      | one engine stream          | with request   |
// | distribution: patience       | giving up on a registry      | with request   |
// | Serve's stopper              | -                          | with Serve     |
package api
