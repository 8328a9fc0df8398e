package churn

import (
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// task adds what the test asks of one.
type task struct{ swarm.Task }

func (t task) ended() bool {
	switch t.Status.State {
	case swarm.TaskStateComplete, swarm.TaskStateShutdown, swarm.TaskStateFailed, swarm.TaskStateRejected, swarm.TaskStateRemove, swarm.TaskStateOrphaned:
		return true
	}
	return false
}

// hostnameInside is what the container calls itself.
func (t task) hostnameInside() string { return t.Status.ContainerStatus.ContainerID[:12] }

func (s *scene) hostname(nodeID string) string { return s.hosts[nodeID] }

// tasks lists those of the service under test.
func (s *scene) tasks() ([]task, error) {
	r, err := s.api.TaskList(s.ctx, client.TaskListOptions{Filters: make(client.Filters).Add("service", s.web)})
	var out []task
	for _, t := range r.Items {
		out = append(out, task{t})
	}
	return out, err
}

// serving are the tasks that should answer.
func (s *scene) serving() ([]task, error) {
	all, err := s.tasks()
	return slices.DeleteFunc(all, func(t task) bool {
		return t.Status.State != swarm.TaskStateRunning || t.DesiredState != swarm.TaskStateRunning
	}), err
}

// asDesired says what the managers still have to do.
func (s *scene) asDesired() error {
	nodes, err := s.api.NodeList(s.ctx, client.NodeListOptions{})
	if err != nil {
		return err
	}
	for _, n := range nodes.Items {
		if n.Status.State != swarm.NodeStateReady || n.Spec.Availability != swarm.NodeAvailabilityActive {
			return fmt.Errorf("%s is %s and %s", n.Description.Hostname, n.Status.State, n.Spec.Availability)
		}
	}
	web, err := s.api.ServiceInspect(s.ctx, s.web, client.ServiceInspectOptions{})
	if err != nil {
		return err
	}
	if u := web.Service.UpdateStatus; u != nil && u.State != swarm.UpdateStateCompleted {
		return fmt.Errorf("update %s: %s", u.State, u.Message)
	}
	tasks, err := s.tasks()
	if err != nil {
		return err
	}
	slots := map[int]string{}
	for _, t := range tasks {
		wanted := t.DesiredState == swarm.TaskStateRunning || t.DesiredState == swarm.TaskStateReady
		switch {
		case wanted != (t.Status.State == swarm.TaskStateRunning) && !(t.ended() && !wanted):
			return fmt.Errorf("task %s should be %s and is %s (%s)", t.ID, t.DesiredState, t.Status.State, t.Status.Err)
		case !wanted:
		case t.Spec.ContainerSpec.Image != web.Service.Spec.TaskTemplate.ContainerSpec.Image:
			return fmt.Errorf("task %s runs %s", t.ID, t.Spec.ContainerSpec.Image)
		case slots[t.Slot] != "":
			return fmt.Errorf("slot %d is taken twice, by %s and %s", t.Slot, slots[t.Slot], t.ID)
		default:
			slots[t.Slot] = t.ID
		}
	}
	if len(slots) != s.replicas {
		return fmt.Errorf("%d tasks run, want %d", len(slots), s.replicas)
	}
	return nil
}

// settle waits until the managers have nothing left to do, and returns when that was.
func (s *scene) settle(st step) time.Time {
	if err := s.until("settle", s.asDesired); err != nil {
		s.t.Fatalf("%v: %v", st, err)
	}
	return time.Now()
}

// truth is what clients should see.
type truth struct {
	hostnames []string
	nodes     map[string]string // of the task of a hostname
	addrs     []string          // sorted, as a probe prints them
}

func (s *scene) truth() (truth, error) {
	tasks, err := s.serving()
	out := truth{nodes: map[string]string{}}
	for _, t := range tasks {
		out.hostnames = append(out.hostnames, t.hostnameInside())
		out.nodes[t.hostnameInside()] = s.hostname(t.NodeID)
		for _, a := range t.NetworksAttachments {
			if a.Network.ID == s.network {
				out.addrs = append(out.addrs, a.Addresses[0].Addr().String())
			}
		}
	}
	slices.Sort(out.addrs)
	return out, err
}

// both are the tasks that serve before and after a step, but for those on the node that it cut off.
func (t truth) both(after truth, cut string) []string {
	return slices.DeleteFunc(slices.Clone(t.hostnames), func(host string) bool {
		return !slices.Contains(after.hostnames, host) || t.nodes[host] == cut
	})
}

// updateService changes the spec, again if somebody else did meanwhile.
func (s *scene) updateService(change func(*swarm.ServiceSpec)) error {
	return s.until("update the service", func() error {
		r, err := s.api.ServiceInspect(s.ctx, s.web, client.ServiceInspectOptions{})
		if err != nil {
			return err
		}
		change(&r.Service.Spec)
		_, err = s.api.ServiceUpdate(s.ctx, s.web, client.ServiceUpdateOptions{Version: r.Service.Version, Spec: r.Service.Spec})
		return err
	})
}

func (s *scene) setAvailability(node string, a swarm.NodeAvailability) error {
	return s.until("set "+node+" to "+string(a), func() error {
		r, err := s.api.NodeInspect(s.ctx, s.ids[node], client.NodeInspectOptions{})
		if errdefs.IsNotFound(err) {
			s.t.Fatal(err)
		}
		if err != nil {
			return err
		}
		r.Node.Spec.Availability = a
		_, err = s.api.NodeUpdate(s.ctx, s.ids[node], client.NodeUpdateOptions{Version: r.Node.Version, Spec: r.Node.Spec})
		return err
	})
}
