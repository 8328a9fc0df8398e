// Package dns answers the containers of a node.
//
// Mechanism: the resolver listens where the State says (the mesh network's gateway,
// an address that every node has), over sockets that stay open for as long as
// their address is listed. A query's source address says which container asks, and so
// which zones it sees. State is compiled (tables.go) into maps from names to
// ready-made resource records in wire form; answering a known name is one parse,
// a few map look-ups and one copy, without allocating (wire.go, answer.go), and
// under load many are taken and given at once (batch_linux.go). Set
// swaps the tables at once: every answer comes from one State as a whole.
//
// What no zone knows goes to the upstreams (exchange.go): those that did well lately
// first (memory.go), a second one too when the first is slow, TCP when an answer was
// cut; answers are kept as long as they allow, and stand in for better ones when no
// upstream answers (cache.go; RFC 2308, RFC 8767, RFC 9520). A name that exists
// without the type asked for is an empty answer, never "no such name": musl gives
// up on a name when either of A and AAAA says so.
//
// | goroutine            | owns                    | ends                       |
// |----------------------|-------------------------|----------------------------|
// | Run                  | which addresses listen  | its ctx                    |
// | one per UDP socket   | socket, its batch       | address not listed, or Run |
// | one per TCP address  | listener                | address not listed, or Run |
// | one per TCP client   | connection              | idle, or as its listener   |
// | one per UDP forward  | its query               | answered, at most ~5 s     |
// | one per renewal      | its query to upstreams  | answered, at most ~5 s     |
package dns
