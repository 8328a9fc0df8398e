package lab

import (
	"context"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

// What Ls says of a node.
const (
	StateRunning  = "running"  // both daemons answer
	StateDegraded = "degraded" // the node is on, but a daemon does not answer
	StateStopped  = "stopped"

	RoleManager = "manager"
	RoleWorker  = "worker"
	RoleNone    = "none" // runs, but is in no swarm
)

// NodeInfo is one element of what `meshctl lab ls --format json` prints.
type NodeInfo struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	// Address6 is the IPv6 address; in a lab of IPv6 only, the same as Address.
	Address6 string `json:"address6,omitempty"`
	Role     string `json:"role"` // as the node itself says; if it cannot, the one that it was made for
	State    string `json:"state"`
	Socket   string `json:"socket"` // path of meshd's API socket
	Engine   string `json:"engine"` // path of the node's Docker Engine socket
	Netns    string `json:"netns"`
	PID      int    `json:"pid,omitempty"` // of the node's init
}

const askTimeout = 3 * time.Second

// Ls tells the nodes in order.
func (l *Lab) Ls(ctx context.Context) ([]NodeInfo, error) {
	r, err := readRecord(l.name)
	if err != nil {
		return nil, err
	}
	infos := make([]NodeInfo, len(r.Nodes))
	ctx, cancel := limited(ctx, askTimeout)
	defer cancel()
	var group errgroup.Group
	for i, n := range r.Nodes {
		group.Go(func() error {
			infos[i] = l.describe(ctx, n)
			return nil
		})
	}
	return infos, group.Wait()
}

func (l *Lab) describe(ctx context.Context, n nodeRecord) NodeInfo {
	info := NodeInfo{
		Name: n.Name, Address: n.Address.String(), Role: RoleWorker, State: StateStopped,
		Socket: meshdSocket(l.name, n.Name), Engine: engineSocket(l.name, n.Name), Netns: netnsName(l.name, n.Name),
	}
	if n.Address6.IsValid() {
		info.Address6 = n.Address6.String()
	}
	if n.Manager {
		info.Role = RoleManager
	}
	if !n.Init.alive() {
		return info
	}
	info.PID = n.Init.PID
	info.State = StateDegraded
	role, err := askRole(ctx, info.Socket)
	if err != nil {
		return info
	}
	info.Role = role
	if ping(ctx, info.Engine) == nil {
		info.State = StateRunning
	}
	return info
}

func ping(ctx context.Context, socket string) error {
	api, err := dial(socket)
	if err != nil {
		return err
	}
	defer api.Close()
	_, err = api.Ping(ctx, client.PingOptions{})
	return err
}

// askRole reads the node's role from the header that every _ping carries, so that it needs no quorum and no engine.
func askRole(ctx context.Context, socket string) (string, error) {
	api, err := dial(socket)
	if err != nil {
		return "", err
	}
	defer api.Close()
	answer, err := api.Ping(ctx, client.PingOptions{})
	if err != nil {
		return "", err
	}
	status := answer.SwarmStatus
	switch {
	case status == nil || status.NodeState == swarm.LocalNodeStateInactive || status.NodeState == "":
		return RoleNone, nil
	case status.ControlAvailable:
		return RoleManager, nil
	default:
		return RoleWorker, nil
	}
}

// Env returns what a shell has to run to speak with a node; "" is the first node.
func (l *Lab) Env(node string) (string, error) {
	if node == "" {
		node = nodeName(1)
	}
	if _, err := l.node(node); err != nil {
		return "", err
	}
	return fmt.Sprintf("export DOCKER_HOST=unix://%s", meshdSocket(l.name, node)), nil
}
