package agent_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// lastReport is the newest report of attached containers.
func (r *rig) lastReport() (out protocol.AttachedReport) {
	if all := r.mgrs.Reports(); len(all) > 0 {
		out = all[len(all)-1]
	}
	return out
}

func TestAttach(t *testing.T) {
	r := newRig(t)
	a := agent.New(r.cfg)
	if _, err := a.Attach(context.Background(), protocol.AttachRequest{}); !errdefs.IsUnavailable(err) {
		t.Errorf("without a session: %v", err)
	}
	r.run(a)
	r.send(full())
	r.until("nothing is attached", func() bool { return len(r.mgrs.Reports()) > 0 })
	r.mgrs.Attach(protocol.AttachReply{TaskID: "at1", Networks: []protocol.AttachedTo{{ID: "n1", Name: "ov", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.9/24")}}}})
	mesh := network(1, "at1")
	mesh.Networks[0].Ingress, mesh.Networks[0].Subnets = true, []protocol.Subnet{{Gateway: netip.MustParseAddr("10.0.0.1")}}
	r.plane.Freeze()
	type answer struct {
		plan agent.AttachmentPlan
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		plan, err := a.Attach(context.Background(), protocol.AttachRequest{})
		answered <- answer{plan, err}
	}()
	r.send(mesh)
	r.until("the view has it", func() bool { return len(r.plane.View().Networks) == 1 })
	select {
	case got := <-answered:
		t.Fatalf("answered before the data plane holds the network: %+v", got)
	default:
	}
	r.plane.Thaw()
	got := <-answered
	if got.err != nil || got.plan.TaskID != "at1" || !slices.Equal(got.plan.Resolvers, []netip.Addr{netip.MustParseAddr("10.0.0.1")}) {
		t.Fatalf("answer: %+v", got)
	}

	// As long as the engine may not have it, nothing must be missed.
	r.engine.Attach()
	r.until("a partial report", func() bool { return r.lastReport().Partial })
	c := protocol.Attached{TaskID: "at1", ContainerID: "c1", Name: "c", Running: true, Networks: got.plan.Networks}
	r.engine.Attach(c)
	got.plan.Done()
	r.until("the container is told of", func() bool { return !r.lastReport().Partial && len(r.lastReport().Containers) == 1 })

	r.mgrs.Attach(protocol.AttachReply{}, protocol.Refused{TaskID: "at1", Network: "n1", Reason: "its address is another's"})
	c.Running = false
	r.engine.Attach(c)
	r.until("it is taken off the network", func() bool { return slices.Contains(r.engine.Events.All(), "detach c1 n1") })
}
