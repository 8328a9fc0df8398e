// Package tunnel lets a manager call a node: for the logs of its tasks, for a
// command in one of them, for what its kernel holds.
//
// Nodes listen for nobody, and may be behind NAT; they call managers. So the
// manager that wants to speak to a node invites it: it names itself and a random
// number in a message of the node's session, which any manager may hold. The
// node dials that manager over the control port (mesh-tunnel/1, both sides with
// their certificates), says the number, and then answers HTTP/1.1 requests on
// the connection that it opened.
//
//	API on manager A ── invite ──► manager B ── session ──► node
//	                 ◄───────────── dials, says the number ──┘
//	                 ──── GET /tasks/<id>/logs ────────────► handler on the node
//
// Only managers can be called back, since the client's side of TLS accepts no
// other certificate; a connection counts only if it comes from the very node
// that was invited. An idle connection is kept for the next request.
//
// | goroutine             | started by | ends with             |
// |-----------------------|------------|-----------------------|
// | Hub.Run: accept       | Run        | its listener, or ctx  |
// | Hub.Run: one greeting | accept     | after 5 s at most     |
// | Hub.Run: hang up      | Run        | ctx                   |
// | Node.Run: HTTP server | Run        | ctx                   |
// | Node.Run: one dial    | Run        | after the client's bound |
package tunnel
