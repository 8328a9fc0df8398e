package services

import (
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

func updating(c swarm.UpdateConfig) func(*swarm.ServiceSpec) {
	return func(s *swarm.ServiceSpec) { s.UpdateConfig = &c }
}

func (w *world) state(want swarm.UpdateState) {
	w.Helper()
	if s := w.service().UpdateStatus; s == nil || s.State != want {
		w.Fatalf("update status %+v, want %s", s, want)
	}
}

func TestStopFirstUpdateNeverStopsMoreThanAllowed(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(3)
		w.create(replicas(6), updating(swarm.UpdateConfig{Parallelism: 2}))
		w.pass(time.Second)
		w.update(force)
		w.state(swarm.UpdateStateUpdating)
		for range 50 {
			w.pass(100 * time.Millisecond)
			if n := len(w.tasks(running)); n < 4 {
				t.Fatalf("only %d tasks run", n)
			}
		}
		w.want(6, "at version 2", at(2))
		w.state(swarm.UpdateStateUpdating) // the last ones are still watched
		w.pass(6 * time.Second)
		w.state(swarm.UpdateStateCompleted)
		if w.service().UpdateStatus.CompletedAt == nil {
			t.Error("no time of completion")
		}
	})
}

func TestStartFirstUpdateKeepsAllRunning(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(3)
		w.create(replicas(3), updating(swarm.UpdateConfig{Parallelism: 1, Order: swarm.UpdateOrderStartFirst}))
		w.pass(time.Second)
		w.update(force)
		for range 30 {
			w.pass(100 * time.Millisecond)
			if n := len(w.tasks(running)); n < 3 || n > 4 {
				t.Fatalf("%d tasks run", n)
			}
		}
		w.want(3, "at version 2", at(2))
		w.want(3, "running", running)
	})
}

// The old task stays until nodes know of the new one, but not for ever.
func TestUpdateWaitsUntilTheNewTaskServesEverywhere(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(3)
		w.create(replicas(2), updating(swarm.UpdateConfig{Parallelism: 1, Order: swarm.UpdateOrderStartFirst}))
		w.pass(time.Second)
		w.deaf = true
		w.update(force)
		w.pass(1500 * time.Millisecond)
		w.want(1, "at version 2", at(2))
		w.want(3, "running", running)
		w.deaf = false
		w.pass(500 * time.Millisecond)
		w.want(2, "at version 2", at(2))
		w.want(2, "running", running)

		w.deaf = true
		w.update(force)
		w.pass(3 * time.Second)
		w.want(2, "at version 3", at(3)) // both, with two seconds between them
		w.want(3, "running", running)
		w.pass(2 * time.Second)
		w.want(2, "running", running)
	})
}

func TestUpdateDelay(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1)
		w.create(replicas(3), updating(swarm.UpdateConfig{Parallelism: 1, Delay: 30 * time.Second}))
		w.pass(time.Second)
		w.update(force)
		w.pass(10 * time.Second)
		w.want(1, "at version 2", at(2))
		w.pass(30 * time.Second)
		w.want(2, "at version 2", at(2))
		w.pass(30 * time.Second)
		w.want(3, "at version 2", at(2))
	})
}

func TestFailedUpdatePauses(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(2)
		w.create(replicas(4), updating(swarm.UpdateConfig{Parallelism: 1}))
		w.pass(time.Second)
		w.broken = 2
		w.update(force)
		w.pass(10 * time.Second)
		w.state(swarm.UpdateStatePaused)
		if m := w.service().UpdateStatus.Message; !strings.HasPrefix(m, "update paused due to failure or early termination of task ") {
			t.Errorf("message %q", m)
		}
		w.want(3, "at version 1", at(1))
		// The next update supersedes it.
		w.update(force)
		w.pass(20 * time.Second)
		w.want(4, "at version 3", at(3))
		w.state(swarm.UpdateStateCompleted)
	})
}

func TestFailuresBelowTheRatioAreTolerated(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1)
		w.create(replicas(4), updating(swarm.UpdateConfig{Parallelism: 1, MaxFailureRatio: 0.3}))
		w.pass(time.Second)
		w.broken = 2
		w.update(force)
		for len(w.tasks(func(t *store.Task) bool { return t.Status.State == swarm.TaskStateFailed })) == 0 {
			w.pass(100 * time.Millisecond)
		}
		w.broken = 0
		w.pass(20 * time.Second)
		w.want(4, "at version 2", at(2))
		w.state(swarm.UpdateStateCompleted)
	})
}

func TestUpdateThatContinuesGetsThrough(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1)
		w.create(replicas(3), updating(swarm.UpdateConfig{Parallelism: 1, FailureAction: swarm.UpdateFailureActionContinue}))
		w.pass(time.Second)
		w.broken = 2
		w.update(force)
		w.pass(time.Minute)
		w.want(0, "at version 1", at(1))
		w.state(swarm.UpdateStateCompleted)
	})
}

func TestFailedUpdateRollsBack(t *testing.T) {
	for _, order := range []swarm.UpdateOrder{swarm.UpdateOrderStopFirst, swarm.UpdateOrderStartFirst} {
		t.Run(string(order), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(2)
				w.create(replicas(4), updating(swarm.UpdateConfig{
					Parallelism: 1, FailureAction: swarm.UpdateFailureActionRollback, Order: order,
				}))
				w.pass(time.Second)
				untouched := w.tasks(running)
				w.broken = 2
				w.update(force)
				w.pass(30 * time.Second)
				w.state(swarm.UpdateStateRollbackCompleted)
				w.want(4, "at version 1", at(1))
				if s := w.service(); s.SpecVersion != 1 || s.Spec.TaskTemplate.ForceUpdate != 0 || s.PreviousSpec != nil {
					t.Errorf("after the rollback: version %d, spec %+v", s.SpecVersion, s.Spec)
				}
				left := 0
				for _, task := range untouched {
					w.store.View(func(v *store.View) {
						if running(v.Task(task.ID)) {
							left++
						}
					})
				}
				if left < 3 {
					t.Errorf("the rollback replaced tasks that had the version already: %d left", left)
				}
			})
		})
	}
}

func TestFailedRollbackPauses(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(1)
		w.create(replicas(2), nil)
		w.pass(time.Second)
		w.update(force)
		w.pass(20 * time.Second)
		w.broken = 1
		w.do(func(tx *store.Tx) { // docker service rollback
			s := *tx.Service("svc")
			s.Spec, s.PreviousSpec, s.SpecVersion = *s.PreviousSpec, nil, 1
			s.UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStateRollbackStarted, Message: "manually requested rollback"}
			tx.Update(&s)
		})
		w.state(swarm.UpdateStateRollbackStarted)
		w.pass(10 * time.Second)
		w.state(swarm.UpdateStateRollbackPaused)
		w.want(1, "at version 2", at(2))
	})
}

func TestGlobalUpdate(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(3)
		w.create(swarm.ServiceMode{Global: &swarm.GlobalService{}}, nil)
		w.pass(time.Second)
		w.node("n3", func(n *store.Node) { n.Spec.Availability = swarm.NodeAvailabilityPause })
		w.update(force)
		w.pass(20 * time.Second)
		w.want(2, "at version 2", at(2))
		w.want(1, "left alone on the paused node", at(1))
		w.state(swarm.UpdateStateCompleted)
		w.node("n3", func(n *store.Node) { n.Spec.Availability = swarm.NodeAvailabilityActive })
		w.pass(20 * time.Second)
		w.want(3, "at version 2", at(2))
	})
}

// hostPort gives the service one replica with a port of its node, to be updated
// start-first.
func hostPort(s *swarm.ServiceSpec) {
	s.UpdateConfig = &swarm.UpdateConfig{Order: swarm.UpdateOrderStartFirst}
	s.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 80, PublishedPort: 80, PublishMode: swarm.PortConfigPublishModeHost}}}
}

func TestStartFirstThatCannotBe(t *testing.T) {
	for name, mode := range map[string]swarm.ServiceMode{"single": replicas(1), "global": {Global: &swarm.GlobalService{}}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(1)
				w.create(mode, hostPort)
				w.pass(time.Second)
				w.update(force)
				for range 30 {
					w.pass(100 * time.Millisecond)
					if n := len(w.tasks(running)); n > 1 {
						t.Fatalf("%d tasks run at once", n)
					}
				}
				w.want(1, "at version 2", at(2))
				if m := w.service().UpdateStatus.Message; m != "update in progress (stop-first: it publishes a port in mode host)" {
					t.Errorf("message %q", m)
				}
			})
		})
	}
}

func TestExclusive(t *testing.T) {
	volume := func(source, driver string) func(*swarm.ServiceSpec) {
		return func(s *swarm.ServiceSpec) {
			s.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: source,
				Target: "/data", VolumeOptions: &mount.VolumeOptions{DriverConfig: &mount.Driver{Name: driver}}}}}
		}
	}
	for _, tc := range []struct {
		name   string
		mode   swarm.ServiceMode
		change func(*swarm.ServiceSpec)
		want   bool
	}{
		{"plain", replicas(1), func(*swarm.ServiceSpec) {}, false},
		{"a port of the node", replicas(1), hostPort, true},
		{"that is left open", replicas(1), func(s *swarm.ServiceSpec) { hostPort(s); s.EndpointSpec.Ports[0].PublishedPort = 0 }, false},
		{"on the host's network", replicas(1), func(s *swarm.ServiceSpec) {
			hostPort(s)
			s.EndpointSpec.Ports[0].PublishedPort = 0
			s.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "host"}}
		}, true},
		{"several replicas", replicas(2), hostPort, false},
		{"a local volume", replicas(1), volume("data", ""), true},
		{"an anonymous volume", replicas(1), volume("", ""), false},
		{"a volume of a cluster's driver", replicas(1), volume("data", "nfs"), false},
		{"a job", replicatedJob(1, 1), hostPort, false},
	} {
		s := swarm.ServiceSpec{Mode: tc.mode}
		tc.change(&s)
		if got := Exclusive(&s); (got != "") != tc.want {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}

// A task that fails while it is watched fails the update; one that fails later
// is restarted.
func TestMonitor(t *testing.T) {
	for after, want := range map[time.Duration]swarm.UpdateState{
		3 * time.Second: swarm.UpdateStatePaused, 8 * time.Second: swarm.UpdateStateCompleted,
	} {
		t.Run(after.String(), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.nodes(1)
				w.create(replicas(1), updating(swarm.UpdateConfig{Parallelism: 1, Monitor: 6 * time.Second}))
				w.pass(time.Second)
				w.update(force)
				for len(w.tasks(at(2))) == 0 {
					w.pass(100 * time.Millisecond)
				}
				w.pass(after)
				w.end(w.tasks(at(2))[0], swarm.TaskStateFailed)
				w.pass(10 * time.Second)
				w.state(want)
				w.want(1, "at version 2", at(2))
			})
		})
	}
}

// A new update takes the place of one that is running, with its own pace.
func TestUpdateIsSupersededInTheMiddle(t *testing.T) {
	inWorld(t, func(w *world) {
		w.nodes(2)
		w.create(replicas(4), updating(swarm.UpdateConfig{Parallelism: 1, Delay: 10 * time.Second}))
		w.pass(time.Second)
		w.update(force)
		w.pass(12 * time.Second)
		w.state(swarm.UpdateStateUpdating)
		w.want(2, "at version 2", at(2))
		w.update(func(s *swarm.ServiceSpec) { force(s); s.UpdateConfig = nil })
		w.pass(10 * time.Second)
		w.want(4, "at version 3", at(3))
		w.pass(10 * time.Second)
		w.state(swarm.UpdateStateCompleted)
	})
}
