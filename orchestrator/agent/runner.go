package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
)

// Runner runs one task as one container. A class of errdefs.ErrUnavailable
// means that the engine could not be asked and that asking again may help, ErrImage
// the same of the image's registry; any other error is final for the task. All methods may be called concurrently,
// but for one container only by one caller at a time.
type Runner interface {
	// Prepare makes the container, with all that it needs, and returns its ID. It
	// takes up a container that an earlier call made. The ID counts even when
	// there is an error.
	Prepare(ctx context.Context, t Task) (id string, err error)
	// Start starts the process and returns its PID once it runs and, if it has a
	// health check, is healthy; without one it is waited for a moment until it
	// listens on a port that it exposes. ErrUnhealthy: it runs, but is not. A container
	// that runs already is waited for in the same way.
	Start(ctx context.Context, id string) (pid int, err error)
	// Wait returns when the container has ended; ErrUnhealthy, once, when it
	// turned unhealthy instead.
	Wait(ctx context.Context, id string) (Exit, error)
	// Stop asks the process to end, and ends it when the grace period of the
	// container's spec is over. A container that does not run is given up all the
	// same: what was made for its process goes.
	Stop(ctx context.Context, id string) error
	// Remove removes the container and its anonymous volumes, running or not. It
	// is no error if there is none.
	Remove(ctx context.Context, id string) error
	// List returns the containers of this node's tasks, ended ones included.
	List(ctx context.Context) ([]Container, error)
}

// Engine is what the agent needs of the node's engine apart from containers.
type Engine interface {
	// Run follows what happens on the engine until ctx ends; Runner's Start and
	// Wait depend on it. It outlasts the engine's absence.
	Run(ctx context.Context) error
	// Describe returns what managers should know of the machine.
	Describe(ctx context.Context) (swarm.NodeDescription, error)
	// EnsureNetwork makes the engine's network that stands for a cluster network.
	EnsureNetwork(ctx context.Context, n protocol.Network) error
	// Attached lists the containers of no task that are on the cluster's networks, and
	// returns a channel that gets a value when that may have changed.
	Attached(ctx context.Context) ([]protocol.Attached, <-chan struct{}, error)
	// Detach takes such a container off a network.
	Detach(ctx context.Context, containerID, networkID string) error
	// PruneNetworks removes the engine's networks that stand for cluster networks
	// other than those named by ID and that nothing is attached to.
	PruneNetworks(ctx context.Context, keep []string) error
}

// Task is an assignment with all that running it takes.
type Task struct {
	protocol.Assignment
	// Node is the machine it runs on.
	Node swarm.NodeDescription
	// Attachments in order; the first is the mesh network. Empty for tasks that
	// use a network of the engine's own (host, none, bridge).
	Attachments []Attachment
}

// Attachment is an address of a task on a network.
type Attachment struct {
	Network protocol.Network
	Addrs   []netip.Prefix
}

// ContainerState is what a container is doing.
type ContainerState string

// The states of a container. The empty state means that there is none.
const (
	ContainerNone    ContainerState = ""
	ContainerCreated ContainerState = "created"
	ContainerRunning ContainerState = "running"
	ContainerExited  ContainerState = "exited"
)

// Container is a task's container as the engine knows it.
type Container struct {
	ID     string
	TaskID string
	State  ContainerState
}

// Exit says how a container ended.
type Exit struct {
	Code int
	// Cause is what the engine says of it, empty if nothing.
	Cause string
}

// Err is nil for exit code 0. The text is Swarm's.
func (e Exit) Err() error {
	if e.Code == 0 {
		return nil
	}
	return &ExitError{Exit: e}
}

// ErrImage: the image cannot be had now, for its registry does not answer, or breaks off.
var ErrImage = errors.New("the image cannot be had now")

// ErrUnhealthy: the container's health check fails. The text is Swarm's.
var ErrUnhealthy = errors.New("dockerexec: unhealthy container")

// ExitError is the failure of a container's process.
type ExitError struct{ Exit Exit }

func (e *ExitError) Error() string {
	if e.Exit.Cause != "" {
		return fmt.Sprintf("task: non-zero exit (%d): %s", e.Exit.Code, e.Exit.Cause)
	}
	return fmt.Sprintf("task: non-zero exit (%d)", e.Exit.Code)
}

// Name is the name of a task and of its container, as Swarm makes it:
// service.slot.task, or service.node.task for tasks without a slot.
func Name(t swarm.Task, service string) string {
	return fmt.Sprintf("%s.%s.%s", service, Slot(t), t.ID)
}

// Slot is a task's slot as text; the node's ID stands in where there is none.
func Slot(t swarm.Task) string {
	if t.Slot == 0 {
		return t.NodeID
	}
	return strconv.Itoa(t.Slot)
}

// HostPorts are the ports that this task alone answers for; the API shows them
// as the task's.
func HostPorts(e *swarm.EndpointSpec) []swarm.PortConfig {
	if e == nil {
		return nil
	}
	var out []swarm.PortConfig
	for _, p := range e.Ports {
		if p.PublishMode == swarm.PortConfigPublishModeHost {
			out = append(out, p)
		}
	}
	return out
}
