package meshd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/placement"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

// watchLives follows a store and sees that no task ever goes back.
func watchLives(ctx context.Context, t testing.TB, s *store.Store) error {
	w := s.Watch(nil)
	defer func() { w.Close() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case c, ok := <-w.C:
			if !ok {
				w = s.Watch(nil)
				continue
			}
			for _, e := range c.Events {
				old, _ := e.Old.(*store.Task)
				next, _ := e.New.(*store.Task)
				if old == nil || next == nil {
					continue
				}
				if tasklife.Before(next.Status.State, old.Status.State) || tasklife.Before(next.DesiredState, old.DesiredState) {
					t.Errorf("task %s goes back from %s (desired %s) to %s (desired %s) at index %d",
						next.ID, old.Status.State, old.DesiredState, next.Status.State, next.DesiredState, c.Index)
				}
			}
		}
	}
}

// holds at every moment, of every manager's picture.
func holds(v *store.View) error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	owners := map[string]string{}
	own := func(who, format string, args ...any) {
		what := fmt.Sprintf(format, args...)
		if other := owners[what]; other != "" {
			problem("%s and %s both have %s", other, who, what)
		}
		owners[what] = who
	}
	for _, s := range v.Services() {
		for _, vip := range s.Endpoint.VirtualIPs {
			own(s.ID, "%s of network %s", vip.Addr.Addr(), vip.NetworkID)
		}
		for _, p := range s.Endpoint.Ports {
			if p.PublishMode != swarm.PortConfigPublishModeHost {
				own(s.ID, "ingress port %d/%s", p.PublishedPort, p.Protocol)
			}
		}
	}
	subnets := map[string]netip.Prefix{}
	for _, n := range v.Networks() {
		if n.IPAMOptions == nil {
			continue
		}
		for _, c := range n.IPAMOptions.Configs {
			for other, p := range subnets {
				if p.Overlaps(c.Subnet) {
					problem("networks %s and %s overlap in %s", n.ID, other, p)
				}
			}
			subnets[n.ID] = c.Subnet
		}
	}
	for _, t := range v.Tasks() {
		if tasklife.Ended(t) {
			continue
		}
		for _, a := range t.NetworksAttachments {
			for _, p := range a.Addresses {
				own(t.ID, "%s of network %s", p.Addr(), a.Network.ID)
			}
		}
		if tasklife.Wanted(t) && !startsFirst(v.Service(t.ServiceID)) {
			own(t.ID, "slot %s of service %s in version %d, run %v", agent.Slot(t.Task), t.ServiceID, t.SpecVersion, t.JobIteration)
		}
		if v.Spec(t.ServiceID, t.SpecVersion) == nil {
			problem("the template of task %s (service %s, version %d) is gone", t.ID, t.ServiceID, t.SpecVersion)
		}
	}
	return errors.Join(problems...)
}

// startsFirst: a task of the service goes on, on a node that is drained, until the
// one that follows it runs.
func startsFirst(s *store.Service) bool {
	return s != nil && s.Spec.UpdateConfig != nil && s.Spec.UpdateConfig.Order == swarm.UpdateOrderStartFirst
}

// check looks at every live manager's picture.
func (s *simulation) check() {
	s.Helper()
	for _, n := range s.nodes {
		if m := n.control(); m != nil {
			var err error
			m.store.View(func(v *store.View) { err = holds(v) })
			if err != nil {
				s.Errorf("as %s sees it: %v", n.name, err)
			}
		}
	}
}

// settled says what keeps the cluster from being what was asked for.
func (s *simulation) settled(v *store.View) error {
	wanted := map[string]bool{} // tasks
	var problems []error
	for _, service := range v.Services() {
		slots, nodes := map[string]bool{}, map[string]int{}
		for _, t := range v.TasksOfService(service.ID) {
			if tasklife.Wanted(t) && t.Status.State == swarm.TaskStateRunning {
				slots[agent.Slot(t.Task)], wanted[t.ID] = true, true
				nodes[t.NodeID]++
			}
		}
		want := len(v.Nodes())
		if r := service.Spec.Mode.Replicated; r != nil {
			want = int(*r.Replicas)
		}
		if u := service.UpdateStatus; u != nil && (u.State == swarm.UpdateStateUpdating || u.State == swarm.UpdateStateRollbackStarted) {
			problems = append(problems, fmt.Errorf("service %s: %s", service.Spec.Name, u.State))
		}
		if len(slots) != want {
			problems = append(problems, fmt.Errorf("service %s: %d slots run, want %d", service.Spec.Name, len(slots), want))
		}
		if most := (want + len(v.Nodes()) - 1) / len(v.Nodes()); service.Spec.Labels[placement.LabelRebalance] != "" {
			for id, n := range nodes {
				if n > most {
					problems = append(problems, fmt.Errorf("service %s: node %s has %d tasks, %d would do", service.Spec.Name, id, n, most))
				}
			}
		}
	}
	for _, t := range v.Tasks() {
		if v.Service(t.ServiceID) == nil {
			problems = append(problems, fmt.Errorf("task %s of a removed service is left: %s, desired %s", t.ID, t.Status.State, t.DesiredState))
		}
	}
	alive := 0
	for _, n := range s.nodes {
		for _, t := range n.engine.alive() {
			alive++
			if !wanted[t.Task.ID] {
				problems = append(problems, fmt.Errorf("%s runs task %s, which nobody wants", n.name, t.Task.ID))
			}
		}
	}
	if alive != len(wanted) {
		problems = append(problems, fmt.Errorf("%d containers run, %d are wanted", alive, len(wanted)))
	}
	return errors.Join(problems...)
}

// describe lists services and their tasks, for whoever reads why a run failed.
func describe(v *store.View) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "index %d\n", v.Index())
	for _, s := range v.Services() {
		mode, _ := json.Marshal(s.Spec.Mode)
		update, _ := json.Marshal(s.Spec.UpdateConfig)
		status, _ := json.Marshal(s.UpdateStatus)
		fmt.Fprintf(&b, "%s %s version %d (update to %d) %s %s %s\n", s.ID, s.Spec.Name, s.SpecVersion, s.UpdateVersion, mode, update, status)
		for _, t := range v.TasksOfService(s.ID) {
			fmt.Fprintf(&b, "   %s slot %s version %d on %s: %s, desired %s, created %s, %s %s\n", t.ID, agent.Slot(t.Task), t.SpecVersion, t.NodeID,
				t.Status.State, t.DesiredState, t.CreatedAt.Format(time.TimeOnly), t.Status.Message, t.Status.Err)
		}
	}
	return b.String()
}

// same compares all managers' replicas, at one index, byte by byte.
func (s *simulation) same() {
	s.Helper()
	for range 100 {
		pictures, indexes := map[string]bool{}, map[uint64]bool{}
		for _, m := range s.live() {
			s.must(m.Barrier(s.ctx()))
			var b bytes.Buffer
			s.must(m.store.Snapshot()(&b))
			pictures[b.String()] = true
			var header struct{ Index uint64 }
			s.must(json.NewDecoder(&b).Decode(&header))
			indexes[header.Index] = true
		}
		if len(indexes) == 1 {
			if len(pictures) != 1 {
				s.Errorf("replicas differ at one index: %v", indexes)
			}
			return
		}
		<-time.After(100 * time.Millisecond)
	}
	s.Error("the managers never agree on an index")
}
