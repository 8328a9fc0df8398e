package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/meshd/meshd/orchestrator/agent"
)

// Config is what a runner needs. Fields without a default must be set.
type Config struct {
	// Socket is where the engine listens: unix:///var/run/docker.sock, or a path.
	Socket string
	// ResolvConf is the file that tasks get as /etc/resolv.conf. It must be where
	// the engine sees it. Tasks with DNS options of their own get a variant.
	ResolvConf string
	// TaskDir holds the files made for single tasks; the engine must see it, too.
	// Default: "tasks" beside ResolvConf.
	TaskDir string
	// MemoryDir holds the files of tasks' secrets and configs; the engine must see
	// it. It is made a file system in memory if it is none. Default: TaskDir with "-memory" behind.
	MemoryDir string
	// Driver of the engine networks; default "meshd".
	Driver string
	// Parallel bounds how many containers are made or started at once; default 8.
	Parallel int
	// AllowPrivileged lets tasks have devices and all capabilities, if they ask.
	AllowPrivileged bool
	Logger          *slog.Logger
}

// engineTimeout bounds a call that must not be cut short: a container half made
// would be nobody's. The engine itself waits up to 45 s for a network driver.
const engineTimeout = 2 * time.Minute

// Runner implements agent.Runner and agent.Engine.
type Runner struct {
	cfg   Config
	log   *slog.Logger
	api   *client.Client
	hub   *hub
	slots chan struct{}
	pulls *pulls

	mu       sync.Mutex
	networks map[string]string // cluster network ID -> engine network ID
	tasks    map[string]string // container ID -> task ID
	making   singleflight.Group
	// attachments is told when Attached may have another answer.
	attachments chan struct{}
}

var (
	_ agent.Runner = (*Runner)(nil)
	_ agent.Engine = (*Runner)(nil)
)

// New returns a runner; the engine need not be there yet.
func New(cfg Config) (*Runner, error) {
	if cfg.Driver == "" {
		cfg.Driver = "meshd"
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 8
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.TaskDir == "" {
		cfg.TaskDir = filepath.Join(filepath.Dir(cfg.ResolvConf), "tasks")
	}
	if cfg.MemoryDir == "" {
		cfg.MemoryDir = cfg.TaskDir + "-memory"
	}
	if !strings.Contains(cfg.Socket, "://") {
		cfg.Socket = "unix://" + cfg.Socket
	}
	api, err := client.New(client.WithHost(cfg.Socket), client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("runner: engine %s: %w", cfg.Socket, err)
	}
	return &Runner{
		cfg: cfg, log: cfg.Logger, api: api, hub: newHub(), pulls: newPulls(),
		slots: make(chan struct{}, cfg.Parallel), networks: map[string]string{}, tasks: map[string]string{},
		attachments: make(chan struct{}, 1),
	}, nil
}

// Run implements agent.Engine: it follows the engine's events. It may be called
// again after it returned.
func (r *Runner) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.follow(ctx) })
	g.Go(func() error { return r.followAttached(ctx) })
	return g.Wait()
}

// Close drops idle connections to the engine.
func (r *Runner) Close() error { return r.api.Close() }

// Start implements agent.Runner.
func (r *Runner) Start(ctx context.Context, id string) (int, error) {
	pid, err := r.start(ctx, id)
	if err != nil && ctx.Err() == nil && !errdefs.IsUnavailable(err) && !errors.Is(err, agent.ErrUnhealthy) {
		r.ended(r.taskOf(id))
	}
	return pid, err
}

func (r *Runner) start(ctx context.Context, id string) (int, error) {
	w := r.hub.watch(id, false)
	if err := r.launch(ctx, id); err != nil {
		return 0, err
	}
	for ev := eventLook; ; {
		pid, done, err := r.started(ctx, id, w, ev)
		if done {
			return pid, err
		}
		if ev, err = w.next(ctx); err != nil {
			return 0, err
		}
	}
}

// started looks at a container whose process was started; done is false while
// its health check has not decided, or while the engine cannot be asked.
func (r *Runner) started(ctx context.Context, id string, w *watch, ev event) (pid int, done bool, err error) {
	config, state, err := r.examine(ctx, id)
	switch {
	case ev == eventDied && (err != nil || state.Running):
		return 0, true, agent.Exit{Code: w.exitCode()}.Err()
	case errdefs.IsUnavailable(err):
		return 0, false, nil // told to look when the engine is back
	case err != nil:
		return 0, true, err
	case !state.Running:
		return 0, true, exitOf(state).Err()
	}
	switch healthOf(state) {
	case container.Unhealthy:
		w.tellUnhealthy()
		return state.Pid, true, agent.ErrUnhealthy
	case container.Starting:
		return 0, ev == eventHealthy, nil
	case container.NoHealthcheck:
		awaitListen(ctx, "/proc", state.Pid, config)
		return state.Pid, true, ctx.Err()
	case container.Healthy:
	}
	return state.Pid, true, nil
}

// launch starts the container. It is not cut short: nobody would know then
// whether the process runs.
func (r *Runner) launch(ctx context.Context, id string) error {
	release, err := r.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	long, cancel := context.WithTimeout(context.WithoutCancel(ctx), engineTimeout)
	defer cancel()
	_, err = r.api.ContainerStart(long, id, client.ContainerStartOptions{})
	if errdefs.IsNotFound(err) { // perhaps somebody removed a network
		r.mu.Lock()
		clear(r.networks)
		r.mu.Unlock()
	}
	return plain(err)
}

// Wait implements agent.Runner.
func (r *Runner) Wait(ctx context.Context, id string) (agent.Exit, error) {
	w := r.hub.watch(id, true)
	for {
		ev, err := w.next(ctx)
		if err != nil {
			return agent.Exit{}, err
		}
		if ev == eventUnhealthy {
			return agent.Exit{}, agent.ErrUnhealthy
		}
		if ev == eventHealthy {
			continue
		}
		state, err := r.inspect(ctx, id)
		if err == nil && !state.Running || errdefs.IsNotFound(err) {
			r.ended(r.taskOf(id))
		}
		switch {
		case ev == eventDied && (err != nil || state.Running):
			return agent.Exit{Code: w.exitCode()}, nil // the engine cannot say more
		case errdefs.IsUnavailable(err):
			// The engine is away; when it is back, the watch is told to look.
		case errdefs.IsNotFound(err):
			return agent.Exit{Code: exitUnknown, Cause: err.Error()}, nil
		case err != nil:
			w.set(func(w *watch) { w.look = true }) // for the next call
			return agent.Exit{}, err
		case !state.Running:
			return exitOf(state), nil
		case healthOf(state) == container.Unhealthy:
			if w.tellUnhealthy() {
				return agent.Exit{}, agent.ErrUnhealthy
			}
		}
	}
}

// exitUnknown stands for a container that vanished with its exit code; it is
// what the engine reports for those it found dead.
const exitUnknown = 255

// Stop implements agent.Runner.
func (r *Runner) Stop(ctx context.Context, id string) error {
	if _, state, err := r.examine(ctx, id); err == nil && state.Running {
		awaitAccepted(ctx, "/proc", state.Pid)
	}
	// Signal and grace period are the container's own, see spec.go.
	_, err := r.api.ContainerStop(ctx, id, client.ContainerStopOptions{})
	// It may not have run at all; then no event will tell of an end.
	r.hub.watch(id, true).set(func(w *watch) { w.look = true })
	if err == nil || errdefs.IsNotFound(err) {
		r.ended(r.taskOf(id))
		return nil
	}
	return plain(err)
}

// Kill ends a container at once.
func (r *Runner) Kill(ctx context.Context, id string) error {
	_, err := r.api.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "KILL"})
	if errdefs.IsNotFound(err) || errdefs.IsConflict(err) { // conflict: not running
		return nil
	}
	return plain(err)
}

// Remove implements agent.Runner.
func (r *Runner) Remove(ctx context.Context, id string) error {
	_, err := r.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) { // conflict: being removed
		return plain(err)
	}
	r.hub.forget(id)
	err = r.forgetFiles(r.taskOf(id))
	r.mu.Lock()
	delete(r.tasks, id)
	r.mu.Unlock()
	return err
}

// taskOf is the task of a container; it may be gone from the engine already.
func (r *Runner) taskOf(container string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks[container]
}

func (r *Runner) remember(container, task string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tasks[container] = task
}

// List implements agent.Runner.
func (r *Runner) List(ctx context.Context) ([]agent.Container, error) {
	list, err := r.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: ours()})
	if err != nil {
		return nil, plain(err)
	}
	out := make([]agent.Container, 0, len(list.Items))
	tasks := make(map[string]bool, len(list.Items))
	for _, c := range list.Items {
		tasks[c.Labels[labelTaskID]] = true
		r.remember(c.ID, c.Labels[labelTaskID])
		out = append(out, agent.Container{ID: c.ID, TaskID: c.Labels[labelTaskID], State: stateOf(c.State)})
	}
	r.sweep(tasks)
	return out, nil
}

// RemoveAll removes the containers of all tasks, running or not, takes others
// off the cluster's networks, and removes the networks made for them: the node leaves its cluster.
func (r *Runner) RemoveAll(ctx context.Context) error {
	list, err := r.List(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(r.cfg.Parallel)
	for _, c := range list {
		g.Go(func() error { return r.Remove(ctx, c.ID) })
	}
	return errors.Join(g.Wait(), r.detachAll(ctx), r.PruneNetworks(ctx, nil))
}

// ours selects the containers of tasks that this program made; an engine that
// is in a swarm of its own has others with the same labels of Swarm.
func ours() client.Filters {
	return client.Filters{}.Add("label", labelOurs)
}

func (r *Runner) inspect(ctx context.Context, id string) (*container.State, error) {
	_, state, err := r.examine(ctx, id)
	return state, err
}

func (r *Runner) examine(ctx context.Context, id string) (*container.Config, *container.State, error) {
	c, err := r.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return nil, nil, plain(err)
	}
	if c.Container.State == nil {
		return nil, nil, errors.New("engine gives no state of container " + id)
	}
	return c.Container.Config, c.Container.State, nil
}

// slot bounds the load on the engine; call the result when done.
func (r *Runner) slot(ctx context.Context) (func(), error) {
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func stateOf(s container.ContainerState) agent.ContainerState {
	switch s {
	case container.StateCreated:
		return agent.ContainerCreated
	case container.StateRunning, container.StatePaused, container.StateRestarting:
		return agent.ContainerRunning
	case container.StateExited, container.StateDead, container.StateRemoving:
		return agent.ContainerExited
	}
	return agent.ContainerExited
}

func healthOf(s *container.State) container.HealthStatus {
	if s.Health == nil || s.Health.Status == "" {
		return container.NoHealthcheck
	}
	return s.Health.Status
}

func exitOf(s *container.State) agent.Exit {
	e := agent.Exit{Code: s.ExitCode, Cause: s.Error}
	if e.Cause == "" && s.OOMKilled {
		e.Cause = "out of memory"
	}
	return e
}
