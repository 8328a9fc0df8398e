package agent

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
)

// Containers of no task on networks of the cluster: the managers give addresses
// before the engine has the container (Attach); from then on they are told what
// the engine has (runAttached), however it came about.

// AttachmentPlan is what a container needs to be on its networks.
type AttachmentPlan struct {
	protocol.AttachReply
	// Resolvers answer for the names of the networks.
	Resolvers []netip.Addr
	// Done must be called when the engine has the container on its networks, or
	// will not have it.
	Done func()
}

// attaching counts calls under way. Reports and requests take turns, so that a
// report is never newer than what it does not know.
type attaching struct {
	turn  sync.Mutex
	mu    sync.Mutex
	count int
	// over is told when a call has ended.
	over chan struct{}
}

func newAttaching() *attaching { return &attaching{over: make(chan struct{}, 1)} }

func (a *attaching) begin() (done func()) {
	a.turn.Lock()
	defer a.turn.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count++
	return sync.OnceFunc(func() {
		a.mu.Lock()
		a.count--
		a.mu.Unlock()
		signal(a.over)
	})
}

func (a *attaching) any() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.count > 0
}

// Attach asks the managers for addresses, and returns when this node's data plane
// and engine know the networks, so that the container may be made.
func (a *Agent) Attach(ctx context.Context, req protocol.AttachRequest) (plan AttachmentPlan, err error) {
	addr := a.link.current()
	if addr == "" {
		return plan, remote.Errorf(errdefs.ErrUnavailable, "this node has no connection to a manager of the swarm, which would give the container its address")
	}
	plan.Done = a.attaching.begin()
	defer func() {
		if err != nil {
			plan.Done()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, a.cfg.ReadyTimeout)
	defer cancel()
	if err := a.cfg.Client.Call(ctx, addr, protocol.PathAttach, req, &plan.AttachReply); err != nil {
		return plan, err
	}
	for _, to := range plan.Networks {
		revision, err := a.revisionWith(ctx, to.ID, plan.TaskID)
		if err == nil {
			err = a.cfg.Dataplane.Ready(ctx, to.ID, revision)
		}
		if err != nil {
			return plan, remote.Errorf(errdefs.ErrUnavailable, "network %s was not ready on this node within %v", to.Name, a.cfg.ReadyTimeout)
		}
		n, _, _ := a.picture.network(to.ID)
		if n.Ingress {
			for _, s := range n.Subnets {
				plan.Resolvers = append(plan.Resolvers, s.Gateway)
			}
		}
		if err := a.cfg.Dataplane.Overlap(n); err != nil {
			return plan, err
		}
		if err := a.cfg.Engine.EnsureNetwork(ctx, n); err != nil {
			return plan, err
		}
	}
	return plan, nil
}

const (
	// attachedPause gathers what happens at once, attachedRetry is when a report
	// is tried again, and attachedPeriod when it is sent although nothing happened.
	attachedPause  = 50 * time.Millisecond
	attachedRetry  = time.Second
	attachedPeriod = 10 * time.Second
)

// runAttached tells the managers what is attached, whenever that has changed.
func (a *Agent) runAttached(ctx context.Context) error {
	var told attachedTold
	for {
		changed, again := a.tellAttached(ctx, &told)
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-changed:
		case <-a.attaching.over:
		case <-timer.C:
		}
		timer.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(attachedPause):
		}
	}
}

// attachedTold is the last report that a manager took.
type attachedTold struct {
	report  protocol.AttachedReport
	manager string
	at      time.Time
	settled bool
}

// tellAttached reports what the engine has now, unless it was told so. again is
// when to look the next time, if nothing changes before.
func (a *Agent) tellAttached(ctx context.Context, told *attachedTold) (changed <-chan struct{}, again time.Duration) {
	a.attaching.turn.Lock()
	defer a.attaching.turn.Unlock()
	containers, changed, err := a.cfg.Engine.Attached(ctx)
	if err != nil {
		a.log.Debug("cannot list attached containers", "error", err)
		return changed, attachedRetry
	}
	report := protocol.AttachedReport{Containers: containers, Partial: a.attaching.any()}
	manager := a.link.current()
	switch {
	case manager == "":
		return changed, attachedRetry
	case told.settled && told.manager == manager && reflect.DeepEqual(told.report, report) && (len(containers) == 0 || time.Since(told.at) < attachedPeriod):
		return changed, attachedPeriod
	}
	var reply protocol.AttachedReply
	if err := a.call(ctx, manager, protocol.PathAttached, report, &reply); err != nil {
		if ctx.Err() == nil {
			a.log.Warn("cannot tell the managers which containers are attached; trying again", "error", err)
		}
		told.settled = false
		return changed, attachedRetry
	}
	for _, r := range reply.Refused {
		a.detach(ctx, containers, r)
	}
	*told = attachedTold{report, manager, time.Now(), !reply.Again && len(reply.Refused) == 0}
	if !told.settled {
		again = attachedRetry
	} else {
		again = attachedPeriod
	}
	return changed, again
}

// detach takes a container off a network that it must not be on.
func (a *Agent) detach(ctx context.Context, containers []protocol.Attached, r protocol.Refused) {
	i := slices.IndexFunc(containers, func(c protocol.Attached) bool { return c.TaskID == r.TaskID })
	if i < 0 {
		return
	}
	a.log.Error("taking a container off a network", "container", containers[i].Name, "network", r.Network, "reason", r.Reason)
	if err := a.cfg.Engine.Detach(ctx, containers[i].ContainerID, r.Network); err != nil {
		a.log.Warn("the container is still on the network; trying again", "container", containers[i].Name, "network", r.Network, "error", err)
	}
}
