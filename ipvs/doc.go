// Package ipvs says what a node's load balancers are to do: virtual addresses
// (VIPs) inside overlay networks, and published ports on the node's own
// addresses. It knows nothing of services' specs, tasks or managers.
//
// [State] is the whole desired state; [Normalize] makes two equal states look
// equal; [Diff] is the pure step from what the kernel holds to what is wanted, in
// an order that loses no connection; a [Balancer] makes the kernel so. [Keeper]
// stands in front of one and tries again what failed.
//
//	goroutine     owns                                        ends
//	Keeper.Run    retries and resyncs, returns of ejected     with its context
//	Keeper.watch  what the Balancer tells of failing backends with Run
//
// Packages ebpf and nat are balancers on the node, in BPF programs and nftables;
// package kernel is one inside containers, of VIPs, by the kernel's IPVS, and
// [Layers] puts it before one of the others. Package ipvstest has one in memory
// and the tests that every Balancer passes.
package ipvs
