package nft

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/nftables"
)

// Watch calls changed whenever something of ours was taken away, as by "nft flush
// ruleset", with which many hosts load their firewall. It returns when ctx ends, or
// the kernel refuses.
func Watch(ctx context.Context, changed func()) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	monitor := nftables.NewMonitor(nftables.WithMonitorAction(nftables.MonitorActionDel))
	events, err := c.AddMonitor(monitor)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = monitor.Close() })
	defer stop()
	for e := range events { // closed once the monitor is
		if e.Error == nil && concerns(e.Data) {
			changed()
		}
	}
	if ctx.Err() == nil {
		return fmt.Errorf("watch nftables: the kernel closed the subscription")
	}
	return nil
}

// concerns tells whether a deleted thing was ours, or stood where something of ours does.
func concerns(deleted any) bool {
	switch d := deleted.(type) {
	case *nftables.Table:
		return isOurTable(d)
	case *nftables.Chain:
		return isOurTable(d.Table) || d.Name == userChain
	case *nftables.Rule:
		return isOurTable(d.Table) || d.Chain != nil && d.Chain.Name == userChain
	}
	return false
}

func isOurTable(t *nftables.Table) bool {
	return t != nil && slices.Contains([]string{Table, AdmitTable, TunnelTable, EdgeTable, ArriveTable}, t.Name)
}
