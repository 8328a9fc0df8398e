// Package nat balances by the kernel's own address translation (nftables), where there is no
// eBPF: a map leads the first packet of a connection to the chain of its service, whose rule takes
// a backend from another map by a random number, in turn, or by the client's address; connection
// tracking does the rest. So a connection costs the same among ten services and among thousands.
// Maps are shared: the kernel looks through all sets of a table for each set that it makes.
//
//	table.go     pure: a State as rules
//	exprs.go     rules and maps as the kernel has them
//	balancer.go  Set: all rules in one transaction
//	forget.go    connections to backends that are gone, whose tracking ends
//
// What is lost against eBPF: counters per service and flows; leastconn and random2 are plain
// chance; affinity and maglev both choose by the client's address, and clients move when backends
// come and go; answers always return by the node where the client came in (no direct return);
// nobody is seen to fail, so none is ejected; 127.0.0.1 does not answer; and forwarding rules of
// the host (FORWARD), not those for its own ports (INPUT), decide on published ports.
//
// A connection ends when its row of connection tracking does: nf_conntrack_tcp_timeout_established,
// five days without a packet unless the host says otherwise.
package nat
