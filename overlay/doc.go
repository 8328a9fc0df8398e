// Package overlay makes a node's overlay networks: containers on different
// nodes share networks that are isolated from each other and from the world.
//
// Mechanism. One VXLAN device in external mode carries all networks of a node.
// Every container's interface is one end of a veth pair; on the other end, in
// the node's namespace, an eBPF program checks that the container speaks for
// itself, lets the load balancer look (package ipvs, joined through a program
// array, see HooksPath), and sends the packet to the container's neighbour, to
// another node, or, on the mesh network only, to the node's own stack and the
// world. There is no bridge, no namespace, no forwarding database and no
// neighbour table per network: whose address it is stands in one map.
//
// That is DriverEBPF. Where the kernel refuses eBPF, DriverBridge does the same by
// routes into the same tunnel device and by nftables; see DESIGN.md.
//
// The package reads state.go (what should be) -> want.go and diff.go (pure:
// which objects in the kernel that means, and what is to be done; of DriverBridge
// bridge.go) -> loop.go
// (does it, keeps what holds, tries again, repairs) -> overlay_linux.go (the
// edge), with one door per kernel interface: link (netlink), datapath (eBPF),
// nft (nftables). Package attach lets Docker Engine attach containers.
//
// The kernel holds all state. Maps, programs and links are pinned below
// Config.RunDir, and an interface carries its Attachment in its alias: when the
// process dies packets flow on, and the next one takes over what it finds.
//
// Goroutines: those of Run only, which ends after them. Set, Attach and Detach
// work on their callers' and are serialised by Overlay.mu.
package overlay
