// Package ebpf balances load in BPF programs (see bpf/balance.c and bpf/local.c).
//
// Four programs stand in the slots of the overlay's program array: they see what
// containers send, what peers send, what comes in from outside, and what the node
// sends itself. Eight more on the root of the cgroup tree see what sockets
// ask for: they connect containers that ask for a VIP to a backend instead, and the
// node's own connections to 127.0.0.1 to its address. All that they decide by is in maps:
//
//	services    VIP or published port -> identity, generation, number of serving backends
//	slots       (service, generation, index) -> backend: what a new connection picks from
//	backends    (service, address, port) -> serving or draining: what each packet is checked against
//	published   a bit per port: the cheap first question on the node's own device
//	node_addrs  the addresses that published ports answer on
//	clients     the addresses of each of this node's containers
//	known       network namespace -> container, as its first DNS query or connection told
//	sockets     what a socket asked for and got, so that it is told what it expects
//	flows       connections, least recently used ones go first
//	counters    connections, bytes and failures of each backend, per CPU
//	health      failures of each backend in a row; suspects: those that Suspects reports
//	workers     who did last what another backend fails to do
//
// A connection through a VIP whose socket was led needs no entry: one of flows
// serves only to count it, and to reset it when its backend is gone. Unconnected UDP sockets are led
// datagram by datagram, stay with their backend, and go to another one when it is
// gone; connected ones are left to the packets' way, which can do the same. That way
// also serves published ports, and all sockets that do not pass the hooks.
//
// There, a connection costs two entries of flows on the node of its client (or where it
// entered), and one on its backend's node. Nothing expires: an idle connection
// lives as long as one without a balancer.
//
// Maps, and the cgroup links, are pinned; the programs live in the overlay's
// array. So all goes on without this process, and the next one adopts it: it
// compares the maps with what is wanted, and swaps the programs, one store each.
// The directory is named after the maps' layout. A version with another one has maps of
// its own, and takes the connections over from the former ones, so that an upgrade
// ends none: see carry.go.
//
// Known limits. Behind more than four extension headers IPv6 passes untouched. A UDP socket that
// talks to a task both directly and through a VIP sees all its answers come from the
// VIP. By packets, two connections of one container from the
// same source port to the same task, the older one direct and the newer one
// through a VIP, cannot be told apart in the answers (the other way round the newer
// one gets another source port). A UDP socket of the node itself whose own port is
// published does not get its answers. Fragments that arrive before their first one
// are lost. ICMP errors about a connection whose source port was changed on the
// task's node, since it came through two nodes at once, do not reach the task.
// Processes of containers that are not on the mesh network (Docker's own bridge)
// do not come by any of the programs.
package ebpf
