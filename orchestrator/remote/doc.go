// Package remote carries calls and streams between nodes over the control port.
//
// One TCP port, TLS 1.3. The protocol agreed on in the handshake (ALPN) says
// what a connection is for: "h2" carries RPC (POST, JSON in, JSON or a stream
// of JSON lines out), "mesh-raft/1" is a raw stream between two managers' rafts,
// "mesh-tunnel/1" one that a node opened so that the manager can call it.
// A client may present no certificate, then only routes without roles answer it.
//
// Errors cross with their text and their class (github.com/containerd/errdefs),
// so that errdefs.IsNotFound and the like hold on both sides.
//
// A dead connection is noticed by pings within about five seconds, on both
// sides; a node that is cut off without a word does not hold a caller longer.
//
// | goroutine           | started by     | ends with                         |
// |---------------------|----------------|-----------------------------------|
// | accept loop         | Server.Serve   | Serve's context, or Close         |
// | one per connection  | net/http       | its connection; closed by Serve   |
// | raft, tunnel        | net/http       | Close of the connection           |
package remote
