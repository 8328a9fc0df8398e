package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// Supported says what of eBPF this kernel lacks for the overlay and the balancer;
// nil if nothing. Without rights to ask, the error is os.ErrPermission.
func Supported() error {
	var errs []error
	for _, t := range []ebpf.ProgramType{ebpf.SchedCLS, ebpf.CGroupSockAddr} {
		if err := features.HaveProgramType(t); err != nil {
			errs = append(errs, fmt.Errorf("programs of type %v: %w", t, err))
		}
	}
	for _, t := range []ebpf.MapType{ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie, ebpf.ProgramArray, ebpf.PerCPUArray} {
		if err := features.HaveMapType(t); err != nil {
			errs = append(errs, fmt.Errorf("maps of type %v: %w", t, err))
		}
	}
	for _, f := range []asm.BuiltinFunc{asm.FnRedirectPeer, asm.FnRedirectNeigh, asm.FnSkbSetTunnelKey, asm.FnFibLookup} {
		if err := features.HaveProgramHelper(ebpf.SchedCLS, f); err != nil {
			errs = append(errs, fmt.Errorf("helper %v: %w", f, err))
		}
	}
	return errors.Join(errs...)
}
