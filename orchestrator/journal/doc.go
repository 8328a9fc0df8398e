// Package journal keeps the newest changes of the replicated state in the form of
// Docker's events, for clients that ask what has happened, and passes on what
// happens. Each manager keeps its own, from the same commits with the same times, so
// all tell the same. After a restart it is made again from the raft log as far as
// that goes back.
//
// | goroutine   | owns                          | ends     |
// |-------------|-------------------------------|----------|
// | Journal.Run | the watch, and the last state | with ctx |
package journal
