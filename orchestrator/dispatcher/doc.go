// Package dispatcher is the manager's side of package protocol. It runs on
// every manager: each serves the sessions of the nodes that chose it out of its
// own replica of the store; only leases and drains are the leader's business.
//
// Picture: one watcher of the store feeds all sessions (loop.go). A commit is
// reduced to what it touches (touch.go): the tasks of some nodes, some services
// and endpoints of networks, the list of nodes. The networks' feeds note it
// (feed.go), and the sessions concerned are marked and woken. A session
// (session.go) is one goroutine, the handler of its HTTP request: woken, it takes
// from the feeds what changed since its last message (subscription.go), and
// compares the node's tasks that were marked with what it has sent. Nothing is
// queued per session but the names of these, so a slow one costs next to no memory
// and holds up nobody: it just gets a larger difference, at worst a snapshot.
//
// Revision: "all changes up to this index, and perhaps some later ones": a feed is
// built from a view of the moment. It stays true until a commit touches the
// network, so a session that opens later may call it by any index up to the newest
// one processed. Revisions are therefore comparable between managers, and a node
// that moves to a manager that lags may ignore what is older than what it holds.
//
// Liveness: every request of a node is a beat (ledger.go). Followers pass beats
// and acknowledgements on to the leader (relay.go), which turns them into the
// state of the node objects (leader.go). A follower that reaches no leader sends its
// nodes elsewhere only if it is better there (cutoff.go), and many sessions that begin
// together take turns (turns.go). Before it gives a node up it asks whether
// the machine is there (machine.go): a restart of the daemon moves no task.
//
// | goroutine                  | owns                                    | ends           |
// |----------------------------|-----------------------------------------|----------------|
// | Run: loop                  | watcher, which services publish ports   | ctx of Run     |
// | Run: recorder              | the reports waiting to be stored        | ctx of Run     |
// | Run: beats (lead or relay) | what was relayed, own tick              | ctx of Run     |
// | session, one per HTTP call | what it has sent                        | request or Run |
//
// Locks: store's, then cache.turn, then cache.mu; Dispatcher.mu, ledger.mu, session.mu are leaves.
package dispatcher
