// Package kernel balances VIPs with the kernel's own load balancer, IPVS (Linux Virtual Server), inside each container's network namespace.
//
// A connection that a container opens to a VIP passes two tables of its own namespace:
//
//	output hook, priority mangle    our nftables table marks it: VIP -> mark, one element of a map for each VIP
//	output hook, behind dstnat      IPVS has a service for each mark: chooses a backend, and rewrites the destination
//	output hook, after that         our table has it routed anew where IPVS chose this container itself
//
// and the answer is given its VIP again when it comes in. What still goes to a VIP then leaves the container, to who leads VIPs on the node
// ([ipvs.Layers]): what began before IPVS was there and goes on, what belongs to a backend that is gone and is refused, a ping. Marks, because a VIP passes every port, which IPVS has for marks alone. TCP and UDP
// have a service each: datagrams leave a backend that is away at once, connections do not.
//
// So the client's address stays, no packet takes another hop, a container sees the VIPs of its own networks and no others, and an
// overlay of any kind lies below; Docker did so until 18.09, and has an address and a hop per node and network since. The price: each
// container's namespace holds all services of its networks, some 1 KB for each backend, and a change is made in each of them. Counts of
// connections are per container, too: so backends stand in another order in each, lest the first one get everybody's first connection.
//
// IPVS keeps what it is told without us, and another process finds it: nothing is remembered elsewhere. A container's sockets that hold
// a namespace would keep it, and its interfaces, alive: so they are opened for each visit.
//
// Known limits. Published ports are not led by this package. Nobody notices backends that fail: no ejection. Where
// nobody serves, a datagram is "not permitted" (EPERM) rather than refused. Maglev's choice is not the same in all containers.
// Datagrams of one client port stay with their backend until it is gone or away, or silent for UDP's timeout. The kernel forgets
// connections that are silent for 20 days.
package kernel
