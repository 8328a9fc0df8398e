// Package store is the replicated state machine of the control plane: the
// cluster's objects, their indexes and the ordered stream of their changes.
//
// The model is Docker's own API types, embedded; own additions stand beside
// them in the same struct. Objects are immutable once stored: whoever wants to
// change one copies it, changes the copy and proposes it.
//
// A change travels like this: a caller reads a view and collects changes in a
// Tx, each carrying the version of the object it was based on (Transact); a
// Proposer replicates them as one Batch; every manager applies the batch with
// Apply, in the same order, with the same result. Apply is total and
// deterministic: a batch whose base versions are stale, or whose names collide,
// is refused whole and the same way everywhere. Watchers then receive the
// batch's events in commit order.
//
// In the log an update is only what it changes (patch.go), in CBOR (codec.go).
//
// | state            | owner                                    |
// |------------------|------------------------------------------|
// | tables, indexes  | Store.mu; written by Apply/Restore only  |
// | watchers         | Store.mu                                 |
package store
