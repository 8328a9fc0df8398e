package churn

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/test/lab"
)

const (
	lowest, highest = 3, 9
	webImage        = "meshd/sample:latest"
	otherImage      = "meshd/sample:2"
)

// shaken are the nodes that steps may touch; the clients in containers live on the others.
var shaken = []string{"node3", "node4"}

// step is one change of the cluster.
type step struct {
	name string
	// orderly: no request may be lost.
	orderly bool
	// node is the one that cannot serve meanwhile, empty if all can.
	node string
	do   func(*scene) error
}

func (s step) String() string { return s.name }

func kindOf(name string) string { return strings.Fields(name)[0] }

func scale(n int) step {
	return step{name: fmt.Sprintf("scale to %d", n), orderly: true, do: func(s *scene) error {
		s.replicas = n
		return s.updateService(func(spec *swarm.ServiceSpec) {
			replicas := uint64(n)
			spec.Mode.Replicated.Replicas = &replicas
		})
	}}
}

// drain empties a node and opens it again.
func drain(node string) step {
	return step{name: "drain " + node, orderly: true, do: func(s *scene) error {
		if err := s.setAvailability(node, swarm.NodeAvailabilityDrain); err != nil {
			return err
		}
		if err := s.until("the drained node is empty", func() error {
			tasks, err := s.tasks()
			if err != nil {
				return err
			}
			for _, t := range tasks {
				if s.hostname(t.NodeID) == node && !t.ended() {
					return fmt.Errorf("%s has task %s (%s)", node, t.ID, t.Status.State)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		return s.setAvailability(node, swarm.NodeAvailabilityActive)
	}}
}

func update() step {
	return step{name: "update", orderly: true, do: func(s *scene) error {
		return s.updateService(func(spec *swarm.ServiceSpec) {
			if c := spec.TaskTemplate.ContainerSpec; c.Image == webImage {
				c.Image = otherImage
			} else {
				c.Image = webImage
			}
		})
	}}
}

// kill ends the container of the i-th task without a word to anybody.
func kill(i int) step {
	return step{name: fmt.Sprintf("kill container %d", i), do: func(s *scene) error {
		tasks, err := s.serving()
		if err != nil {
			return err
		}
		victim := tasks[i%len(tasks)]
		engine, err := s.lab.EngineClient(s.hostname(victim.NodeID))
		if err != nil {
			return err
		}
		defer engine.Close()
		if _, err = engine.ContainerKill(s.ctx, victim.Status.ContainerStatus.ContainerID, client.ContainerKillOptions{Signal: "KILL"}); err != nil {
			return err
		}
		return s.until("managers know of the end", func() error {
			r, err := s.api.TaskInspect(s.ctx, victim.ID, client.TaskInspectOptions{})
			if err == nil && !(task{r.Task}).ended() {
				err = fmt.Errorf("task is %s", r.Task.Status.State)
			}
			return err
		})
	}}
}

// cut separates a node from the others, not from the client machine.
func cut(node string, d time.Duration) step {
	return step{name: fmt.Sprintf("cut %s off for %v", node, d.Round(100*time.Millisecond)), node: node, do: func(s *scene) error {
		if err := s.lab.Partition(node); err != nil {
			return err
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(d):
		}
		return s.lab.Heal()
	}}
}

// restart ends a node's daemon at once, and starts it again: the data plane and the tasks go on, so nothing is lost.
func restart(node string) step {
	return step{name: "restart meshd of " + node, orderly: true, do: func(s *scene) error {
		if err := s.lab.Signal(s.ctx, node, lab.Meshd, syscall.SIGKILL); err != nil {
			return err
		}
		if err := s.lab.WaitEnded(s.ctx, node, lab.Meshd); err != nil {
			return err
		}
		return s.lab.Start(s.ctx, node)
	}}
}
