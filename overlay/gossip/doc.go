// Package gossip tells which nodes cannot be reached right now. It says nothing
// about networks or endpoints: those are the managers' to say. The one use of
// its word is to take a dead node's endpoints out of this node's load balancers
// and names at once, without asking anybody, and to put them back on return.
//
// Mechanism: memberlist (SWIM with Lifeguard) probes one node every ProbeInterval
// over UDP, asks others to probe the ones that did not answer, and spreads what it
// finds. The cost per node does not grow with the cluster. All packets are
// AES-256-GCM, with keys that the managers give to members only (SetKeys): nothing
// listens before the first came. Seeds are the nodes that the managers list.
//
// memberlist watches a process, but what counts is the machine: containers and the
// data path in its kernel go on while the daemon is restarted or starved of CPU.
// So the verdict "dead" is checked from here with a TCP connect to the same port: it
// is the peer's kernel that accepts or refuses. Only a machine that does neither is
// masked. That makes false alarms rare enough for timers of about a second.
//
// Nodes that gossip has never met count as alive, and so do all that it has lost
// if they are too many to be true (mask.go).
//
// | goroutine        | owns                                    | ends                  |
// |------------------|-----------------------------------------|-----------------------|
// | Run: loop        | the member list, key ring, who was met  | its ctx               |
// | Run: joiner      | its pauses                              | its ctx               |
// | check, per loss  | one TCP connect                         | after connectTimeout  |
// | memberlist's own | sockets, probes                         | Shutdown, within Run  |
//
// Locks: Gossip.mu is a leaf. memberlist calls its delegates under its own locks;
// ours only wakes the loop, which then reads the list.
package gossip
