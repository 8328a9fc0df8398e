// Package consensus replicates the store between managers with raft. It is the
// only importer of hashicorp/raft.
//
// A proposal is a log entry: a random ID and an encoded store.Batch. Any manager
// may propose; a follower hands the entry to the leader (POST /v1/propose) and
// returns when its own store has applied it, so that it reads its own writes.
//
// Exactly once: when a leader dies or a connection breaks in the middle, nobody
// can say whether the entry was appended. The proposer may send it again, since
// each replica remembers the outcomes of the last proposals by their ID, as part
// of its replicated state, and applies an ID once only. So a proposal is retried
// until the context ends, whatever went wrong.
//
// Reads: Barrier asks the leader for a read index. The leader takes its commit
// index, makes sure by a round of heartbeats that it still leads, and answers;
// the asker waits for its own store to get there. A leader answers only after a
// barrier of its own term, before which its commit index may lag its predecessor's.
//
// Apply is total: an entry or a snapshot that cannot be decoded halts the
// replica (Config.Fatal) rather than let it differ from the others. A refusal by
// the store is not a failure: it is the same everywhere and goes to the proposer.
//
// At rest, log entries, snapshots and raft's votes are sealed with XChaCha20-Poly1305;
// the key is certs.Vault's. Open reads them all, since raft and bbolt would go back to
// something older without a word (damage.go). A disk that takes no writes is waited for
// (trouble.go).
//
// Timing: a follower calls an election after 600 to 1200 ms without the leader,
// so a new one leads about a second after the old one died. Heartbeats go ten
// times in 600 ms from goroutines that never touch the disk, so a machine whose
// cores are all busy delays them by tens of milliseconds, not by hundreds; and a
// node that does lose touch first asks whether it would win (pre-vote), which
// it does not while the others hear their leader: a stall does not depose anyone.
//
// | goroutine            | owns                          | ends with          |
// |----------------------|-------------------------------|--------------------|
// | raft's own           | log, term, FSM calls          | Close              |
// | Node.watch           | readyTerm, subscriptions      | Close              |
// | Node.observe         | the set of unreachable peers  | Close              |
// | submissions          | one proposal on its way       | Close waits        |
package consensus
