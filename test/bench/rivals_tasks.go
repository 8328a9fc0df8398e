package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/probe"
)

const (
	web     = "web" // the service that is updated and loses tasks
	webPort = 8080
	// one and many are sizes of services that are only created.
	one, many = 1, 30
	// version is in the environment of updated tasks.
	version = "VERSION=updated"
	// callEvery and callLimit are those of the calls during an update.
	callEvery = 50 * time.Millisecond
	callLimit = 5 * time.Second
)

// create takes services of one task and of many.
func (r *rival) create(ctx context.Context, t *table) error {
	for _, n := range []int{one, many} {
		if err := r.createOf(ctx, t, n); err != nil {
			return err
		}
		if err := r.remove(ctx, web); err != nil {
			return err
		}
	}
	return nil
}

func (r *rival) createWeb(ctx context.Context, t *table) error { return r.createOf(ctx, t, r.tasks) }

// createOf measures from the request until the API says that all tasks run. Their restart has no delay: its default is the same 5 s for both.
func (r *rival) createOf(ctx context.Context, t *table, n int) error {
	spec := r.replicas(web, n)
	var none time.Duration
	spec.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionAny, Delay: &none}
	spec.UpdateConfig = &swarm.UpdateConfig{Parallelism: uint64(r.atOnce()), Monitor: time.Second}
	spec.EndpointSpec = r.endpoint(swarm.PortConfig{TargetPort: webPort, PublishedPort: webPort})
	start := time.Now()
	if _, err := r.api.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec}); err != nil {
		return err
	}
	if err := r.all(ctx, n, func(swarm.Task) bool { return true }); err != nil {
		return fmt.Errorf("%d tasks: %w", n, err)
	}
	t.add(created(n), r.name, time.Since(start).Seconds())
	return nil
}

// created is the row of services of that size.
func created(tasks int) string {
	return fmt.Sprintf("create to all running, tasks: %d, s", tasks)
}

// all waits until n tasks of web run, and all of them are as wanted.
func (r *rival) all(ctx context.Context, n int, wanted func(swarm.Task) bool) error {
	return r.wait(ctx, func(ctx context.Context) (bool, error) {
		running, err := runningTasks(ctx, r.api, web)
		return len(running) == n && !slices.ContainsFunc(running, func(t swarm.Task) bool { return !wanted(t) }), err
	})
}

// remove waits until no container is left.
func (r *rival) remove(ctx context.Context, service string) error {
	if _, err := r.api.ServiceRemove(ctx, service, client.ServiceRemoveOptions{}); err != nil {
		return err
	}
	return r.wait(ctx, func(ctx context.Context) (bool, error) {
		for _, node := range r.node {
			engine, err := r.lab.EngineClient(node)
			if err != nil {
				return false, err
			}
			defer engine.Close()
			label := make(client.Filters).Add("label", "com.docker.swarm.service.name="+service)
			list, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: label})
			if err != nil || len(list.Items) > 0 {
				return false, err
			}
		}
		return true, nil
	})
}

// atOnce is how many tasks an update replaces at a time: a fifth.
func (r *rival) atOnce() int { return max(1, r.tasks/5) }

// update replaces all tasks of web while it is called by its name and through the routing mesh.
func (r *rival) update(ctx context.Context, t *table) error {
	ways := map[string]probe.Spec{
		"by name": {Node: "node1", PID: r.caller.pid, Target: "http://" + at(web, webPort) + "/"},
	}
	if r.vips {
		ways["ingress"] = probe.Spec{Node: lab.Client, Target: "http://" + at(r.address["node1"], webPort) + "/"}
	}
	probes := map[string]*probe.Probe{}
	for name, spec := range ways {
		spec.Sample, spec.Every, spec.Timeout = r.sample, callEvery, callLimit
		p, err := probe.Start(r.lab, spec)
		if err != nil {
			return err
		}
		defer p.Stop() // again: harmless
		probes[name] = p
	}
	time.Sleep(settle)
	begun := time.Now()
	if err := r.replaceAll(ctx); err != nil {
		return err
	}
	took := time.Since(begun)
	time.Sleep(settle)
	ended := time.Now()
	t.add(fmt.Sprintf("rolling update, tasks: %d, %d at a time, s", r.tasks, r.atOnce()), r.name, took.Seconds())
	for name, p := range probes {
		if err := p.Stop(); err != nil {
			return err
		}
		calls, lost := p.Between(begun, ended), p.Failures(begun, ended)
		if len(calls) == 0 {
			return fmt.Errorf("no call %s during the update", name)
		}
		t.add("calls lost during it, "+name+", %", r.name, 100*float64(len(lost))/float64(len(calls)))
	}
	return r.wait(ctx, func(ctx context.Context) (bool, error) { // it watches the last tasks for a while
		s, err := r.api.ServiceInspect(ctx, web, client.ServiceInspectOptions{})
		return err == nil && s.Service.UpdateStatus != nil && s.Service.UpdateStatus.State == swarm.UpdateStateCompleted, err
	})
}

// replaceAll updates web and waits until all its tasks are new.
func (r *rival) replaceAll(ctx context.Context) error {
	s, err := r.api.ServiceInspect(ctx, web, client.ServiceInspectOptions{})
	if err != nil {
		return err
	}
	spec := s.Service.Spec
	spec.TaskTemplate.ContainerSpec.Env = []string{version}
	if _, err := r.api.ServiceUpdate(ctx, web, client.ServiceUpdateOptions{Version: s.Service.Version, Spec: spec}); err != nil {
		return err
	}
	return r.all(ctx, r.tasks, func(t swarm.Task) bool { return slices.Contains(t.Spec.ContainerSpec.Env, version) })
}

// loseContainer kills one of web's containers through its engine.
func (r *rival) loseContainer(ctx context.Context, t *table) error {
	running, err := runningTasks(ctx, r.api, web)
	if err != nil {
		return err
	}
	victim := running[0]
	engine, err := r.lab.EngineClient(r.node[victim.NodeID])
	if err != nil {
		return err
	}
	defer engine.Close()
	begun := time.Now()
	if _, err := engine.ContainerKill(ctx, victim.Status.ContainerStatus.ContainerID, client.ContainerKillOptions{Signal: "KILL"}); err != nil {
		return err
	}
	if err := r.all(ctx, r.tasks, func(t swarm.Task) bool { return t.ID != victim.ID }); err != nil {
		return err
	}
	t.add("container killed to replaced, s", r.name, time.Since(begun).Seconds())
	return nil
}

// loseWorker cuts the power of the last node, and brings it back.
func (r *rival) loseWorker(ctx context.Context, t *table) error {
	last := "node" + strconv.Itoa(len(r.address))
	begun := time.Now()
	if err := r.lab.Kill(ctx, last); err != nil {
		return err
	}
	if err := r.all(ctx, r.tasks, func(t swarm.Task) bool { return r.node[t.NodeID] != last }); err != nil {
		return err
	}
	t.add("power cut of a worker to all tasks replaced, s", r.name, time.Since(begun).Seconds())
	if err := r.lab.Start(ctx, last); err != nil {
		return err
	}
	return r.whole(ctx)
}
