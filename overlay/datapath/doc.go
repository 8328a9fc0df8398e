// Package datapath is the overlay's door to eBPF: its programs, the maps they
// read, and their place on devices.
//
// Everything is pinned in a bpffs directory, so the kernel goes on forwarding
// without this process; Load takes over what it finds there and swaps the
// programs in place. Maps are tables of plain values (see tables.go), which
// whoever owns the desired state fills; the layouts are those of bpf/maps.h, and
// how the load balancer joins in is bpf/hook.h.
//
// Programs are attached as tcx links (Linux 6.6 and later). Where there is no
// tcx, Attach says so (ErrNoTCX) and the caller attaches the same programs, by
// FD, as clsact filters.
package datapath
