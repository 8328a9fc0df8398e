package lab

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

const (
	swarmTimeout = 90 * time.Second
	controlPort  = "2377"
)

// listenAddr is every address of the machine, in the version that nodes know each other by.
func (r record) listenAddr() string {
	if r.IPv6Only {
		return net.JoinHostPort("::", controlPort)
	}
	return net.JoinHostPort("0.0.0.0", controlPort)
}

// makeSwarm does through the API what a user does by hand: init on the first node, join on the others.
func (l *Lab) makeSwarm(ctx context.Context, r record) error {
	ctx, cancel := limited(ctx, swarmTimeout)
	defer cancel()
	began := time.Now()
	first := r.Nodes[0]
	api, err := l.MeshdClient(first.Name)
	if err != nil {
		return err
	}
	defer api.Close()
	_, err = api.SwarmInit(ctx, client.SwarmInitOptions{ListenAddr: r.listenAddr(), AdvertiseAddr: first.Address.String()})
	if err != nil {
		return fmt.Errorf("%s: swarm init: %w", first.Name, err)
	}
	l.say("%s: swarm made (%.1fs)", first.Name, time.Since(began).Seconds())
	inspected, err := api.SwarmInspect(ctx, client.SwarmInspectOptions{})
	if err != nil {
		return fmt.Errorf("%s: join tokens: %w", first.Name, err)
	}
	if err := l.joinAll(ctx, r, inspected.Swarm.JoinTokens); err != nil {
		return err
	}
	if err := waitReady(ctx, api, len(r.Nodes)); err != nil {
		return err
	}
	l.say("lab %s: %d nodes ready (%.1fs)", l.name, len(r.Nodes), time.Since(began).Seconds())
	return nil
}

// joinAll adds managers one at a time, since each changes the quorum; workers join together.
func (l *Lab) joinAll(ctx context.Context, r record, tokens swarm.JoinTokens) error {
	var workers errgroup.Group
	for _, n := range r.Nodes[1:] {
		if n.Manager {
			if err := l.join(ctx, r, n, tokens.Manager); err != nil {
				return err
			}
			continue
		}
		workers.Go(func() error { return l.join(ctx, r, n, tokens.Worker) })
	}
	return workers.Wait()
}

func (l *Lab) join(ctx context.Context, r record, n nodeRecord, token string) error {
	began := time.Now()
	api, err := l.MeshdClient(n.Name)
	if err != nil {
		return err
	}
	defer api.Close()
	_, err = api.SwarmJoin(ctx, client.SwarmJoinOptions{
		ListenAddr: r.listenAddr(), AdvertiseAddr: n.Address.String(),
		RemoteAddrs: []string{net.JoinHostPort(r.Nodes[0].Address.String(), controlPort)}, JoinToken: token,
	})
	if err != nil {
		return fmt.Errorf("%s: swarm join: %w", n.Name, err)
	}
	role := "worker"
	if n.Manager {
		role = "manager"
	}
	l.say("%s: joined as %s (%.1fs)", n.Name, role, time.Since(began).Seconds())
	return nil
}

func waitReady(ctx context.Context, api *client.Client, want int) error {
	return poll(ctx, func() error {
		list, err := api.NodeList(ctx, client.NodeListOptions{})
		if err != nil {
			return err
		}
		ready := 0
		for _, n := range list.Items {
			if n.Status.State == swarm.NodeStateReady {
				ready++
			}
		}
		if ready < want {
			return fmt.Errorf("%d of %d nodes are ready", ready, want)
		}
		return nil
	})
}
