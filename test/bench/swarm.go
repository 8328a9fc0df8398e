package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/test/lab"
)

// swarmLab is a second lab, whose engines make a swarm of their own: Docker's.
const swarmLab = "benchswarm"

// besideSwarm makes two containers on an overlay network of Docker Swarm's own, on two nodes, and says the way between them. Its
// virtual addresses need IPVS, which not every kernel has: they are left out. Call end in any case.
func (b *netBench) besideSwarm(ctx context.Context) (_ []way, end func() error, err error) {
	l, end, err := engineLab(ctx, 2, b.netOptions)
	if err != nil {
		return nil, end, err
	}
	engines, err := dockerSwarm(ctx, l)
	if err != nil {
		return nil, end, fmt.Errorf("Docker's own swarm: %w", err)
	}
	if _, err := engines[0].NetworkCreate(ctx, "theirs", client.NetworkCreateOptions{Driver: "overlay", Scope: "swarm", Attachable: true}); err != nil {
		return nil, end, err
	}
	far, _, err := runOn(ctx, engines[1], "sample", "bench-serve")
	if err != nil {
		return nil, end, err
	}
	_, pid, err := runOn(ctx, engines[0], "sleep")
	return []way{{
		name: "Docker Swarm's overlay, across nodes", node: "node1", pid: pid, lab: l,
		target: net.JoinHostPort(far, strconv.Itoa(netPort)), against: []string{bareNodes, acrossNodes},
	}}, end, err
}

// engineLab makes the nodes of a swarm of Docker's own, without meshd, with the image in each. Call end in any case.
func engineLab(ctx context.Context, nodes int, o netOptions) (l *lab.Lab, end func() error, err error) {
	end = func() error { return lab.Down(context.WithoutCancel(ctx), swarmLab, os.Stderr) }
	if err := end(); err != nil {
		return nil, end, err
	}
	l, err = lab.Up(ctx, lab.Options{Name: swarmLab, Nodes: nodes, EngineSwarm: true, Meshd: o.meshd, Progress: os.Stderr})
	if err == nil {
		err = l.Load(ctx, o.image)
	}
	return l, end, err
}

// dockerSwarm has the first engine make a swarm and the others join it.
func dockerSwarm(ctx context.Context, l *lab.Lab) ([]*client.Client, error) {
	nodes, err := l.Ls(ctx)
	if err != nil {
		return nil, err
	}
	var engines []*client.Client
	token, first := "", nodes[0].Address
	for i, n := range nodes {
		e, err := l.EngineClient(n.Name)
		if err != nil {
			return nil, err
		}
		engines = append(engines, e)
		if i > 0 {
			_, err = e.SwarmJoin(ctx, client.SwarmJoinOptions{
				ListenAddr: "0.0.0.0:2377", AdvertiseAddr: n.Address, RemoteAddrs: []string{net.JoinHostPort(first, "2377")}, JoinToken: token,
			})
			if err != nil {
				return nil, err
			}
			continue
		}
		if _, err := e.SwarmInit(ctx, client.SwarmInitOptions{ListenAddr: "0.0.0.0:2377", AdvertiseAddr: first}); err != nil {
			return nil, err
		}
		r, err := e.SwarmInspect(ctx, client.SwarmInspectOptions{})
		if err != nil {
			return nil, err
		}
		token = r.Swarm.JoinTokens.Worker
	}
	return engines, nil
}

// runOn starts a container on Docker's overlay network.
func runOn(ctx context.Context, engine *client.Client, args ...string) (addr string, pid int, err error) {
	created, err := engine.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config:           &container.Config{Image: benchImage, Cmd: args},
		HostConfig:       &container.HostConfig{NetworkMode: "theirs"},
		NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"theirs": {}}},
	})
	if err != nil {
		return "", 0, err
	}
	// A worker gets the network from the managers as the first container asks for it, which takes a moment.
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	err = until(limited, func() (bool, error) {
		_, last = engine.ContainerStart(limited, created.ID, client.ContainerStartOptions{})
		return last == nil, nil
	})
	if err != nil {
		return "", 0, errors.Join(err, last)
	}
	c, err := engine.ContainerInspect(ctx, created.ID, client.ContainerInspectOptions{})
	if err != nil {
		return "", 0, err
	}
	return c.Container.NetworkSettings.Networks["theirs"].IPAddress.String(), c.Container.State.Pid, nil
}
