package meshd

import (
	"context"

	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/allocator"
	"github.com/meshd/meshd/orchestrator/leader"
	"github.com/meshd/meshd/orchestrator/reaper"
	"github.com/meshd/meshd/orchestrator/scheduler"
	"github.com/meshd/meshd/orchestrator/services"
)

// loops are the control loops of a term, in the order in which a task meets them.
func (m *manager) loops() []leader.Component {
	term := m.AsLeader()
	return []leader.Component{
		{Name: "services", Run: services.New(services.Config{Store: m.store, Proposer: term, Log: m.log, Serving: m.dispatcher.Serving}).Run},
		{Name: "allocator", Run: allocator.New(allocator.Config{Store: m.store, Proposer: term, Log: m.log, HostRoutes: hostRanges}).Run},
		{Name: "scheduler", Run: scheduler.New(scheduler.Config{Store: m.store, Proposer: term, Log: m.log}).Run},
		{Name: "reaper", Run: reaper.New(reaper.Config{Store: m.store, Proposer: term, Log: m.log}).Run},
		{Name: "gossip keys", Run: admission.NewKeys(m.store, m.Node, admission.Rotation{}, m.log).Run},
		{Name: "encryption keys", Run: admission.NewEncryption(m.store, m.Node, m.log).Run},
		{Name: "roots", Run: admission.NewRoots(m.store, m.Node, m.log).Run},
		{Name: "roles", Run: admission.NewRoles(m.store, m.Node, m.log).Run},
	}
}

// lead runs the control loops while this manager leads.
func (m *manager) lead(ctx context.Context) error {
	changes, stop := m.LeaderChanges()
	defer stop()
	return leader.Run(ctx, leader.Config{Changes: changes, Ready: m.Barrier, Components: m.loops, Log: m.log})
}
