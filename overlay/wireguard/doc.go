// Package wireguard is the overlay's door to WireGuard: this node's keys, and the
// devices that encrypt what travels between nodes.
//
// Each key has a device of its own (DeviceName). Keys are numbered by epochs, which
// the managers count: packets travel between devices of the same epoch. While the
// cluster goes from one epoch to the next a node has two keys and two devices, and
// each pair of nodes moves when a handshake has shown that both have the new one.
//
// A device is the kernel's where the kernel has WireGuard; else it is a TUN device of
// wireguard-go, which runs in a process of its own (helper.go) that outlives whoever
// started it. Both are configured by wgctrl, and only by it.
//
// A peer's AllowedIPs are the addresses of its containers, so that no node can speak
// for another's. They are changed one by one: to replace a peer's list is to have
// none for a moment.
package wireguard
