// Package allocator gives networks their VNI and subnets, services their virtual
// addresses and published ports, and tasks their addresses, before anything that
// needs them starts.
//
// What is handed out stands in the objects; the book is the same seen from the
// other side (who has this address?) and is rebuilt from them. An owner holds
// what its stored object names and loses it when the object stops naming it, when
// a task has ended, or when either is gone. So the book follows the store alone;
// the only thing it knows earlier is what the round at work has chosen, and that
// is undone if the batch is refused.
//
// What cannot be had now (a subnet is exhausted, a port belongs to another
// service, a network is not there) blocks its object and nothing else: a task
// stays "new" and says why in its status. All that is blocked is tried again when
// something came free or a network changed.
//
// Every task that uses the cluster's networks gets an address on the mesh network
// (Spec.Ingress), first in its list: it carries the default route, DNS and the
// routing mesh. Tasks on the node's own networks (host, none, bridge) get none.
//
// Labels of a service name its virtual addresses, and have its slots keep theirs.
//
// book.go keeps the books, slots.go those of slots, labels.go reads labels,
// decide.go chooses, loop.go proposes.
package allocator
