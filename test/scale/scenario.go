package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

const (
	managersCount = 3
	// createAtOnce is how many services are created together.
	createAtOnce = 8
	// lost is the part of the nodes that dies.
	lost = 10
)

// scenario is one run of the whole measurement.
type scenario struct {
	dir                                        string
	nodes, services, replicas, large, networks int
	parallelism                                uint64
	start, rest, patience                      time.Duration
	pprof                                      bool
	out, progress                              io.Writer

	managers []*process[managerState]
	addrs    []string
	agents   *process[agentsState]
	api      *client.Client
	token    swarm.JoinTokens
	// ended is what a manager had used that another process took the place of.
	ended time.Duration
}

func (s *scenario) tasks() int { return s.services*s.replicas + s.large }

// run takes all figures and prints the table.
func (s *scenario) run(ctx context.Context) (err error) {
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp("", "meshd-scale-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	}
	defer s.end()
	t := newTable(s.out, fmt.Sprintf("%d nodes, %d tasks", s.nodes, s.tasks()))
	for _, step := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"three managers up", s.found},
		{"all nodes joined", s.join},
		{"all tasks placed, running and acknowledged", s.create},
		{"memory of a manager", s.memory},
		{"CPU of a manager at rest", s.idle},
		{fmt.Sprintf("a rolling update of %d tasks, %d at a time", s.large, s.parallelism), s.update},
		{fmt.Sprintf("loss of %d nodes: until all tasks run again", s.nodes/lost), s.lose},
		{"a manager restarted: until it has caught up", s.restart},
		{"memory of a manager in the end", s.memory},
	} {
		began, used := time.Now(), s.cpu()
		s.ended = 0
		stepCtx, cancel := context.WithTimeout(ctx, s.patience)
		figure, err := step.do(stepCtx)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if figure == "" {
			figure = seconds(time.Since(began))
		}
		t.row(step.name, figure, fmt.Sprintf("%.1f", (s.cpu()+s.ended-used).Seconds()))
	}
	return nil
}

// cpu is what all managers that run have used, which says more than the clock on a
// machine that others use, too.
func (s *scenario) cpu() (sum time.Duration) {
	for _, m := range s.managers {
		if u, err := m.used(); err == nil {
			sum += u.cpu
		}
	}
	return sum
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// end kills what still runs.
func (s *scenario) end() {
	if s.agents != nil {
		s.agents.kill()
	}
	for _, m := range s.managers {
		m.kill()
	}
}

func (s *scenario) managerDir(i int) string {
	return filepath.Join(s.dir, fmt.Sprint("manager", i+1))
}

// startManager starts the process of a manager and waits until it is one.
func (s *scenario) startManager(ctx context.Context, i int, more ...string) (*process[managerState], error) {
	args := append([]string{roleManager, "-dir", s.managerDir(i), "-addr", s.addrs[i], fmt.Sprintf("-pprof=%t", s.pprof)}, more...)
	m, err := spawn[managerState](fmt.Sprint("manager ", i+1), s.progress, args...)
	if err != nil {
		return nil, err
	}
	if err := m.until(ctx, "it is ready", func(st managerState) bool { return st.Ready }); err != nil {
		m.kill()
		return nil, err
	}
	return m, nil
}

// found starts the managers.
func (s *scenario) found(ctx context.Context) (string, error) {
	for i := range managersCount {
		addr, err := freeAddr()
		if err != nil {
			return "", err
		}
		s.addrs = append(s.addrs, addr)
		var more []string
		if i > 0 {
			more = []string{"-join", s.addrs[0], "-token", s.token.Manager}
		}
		m, err := s.startManager(ctx, i, more...)
		if err != nil {
			return "", err
		}
		s.managers = append(s.managers, m)
		if i > 0 {
			continue
		}
		if s.api, err = client.New(client.WithHost("unix://" + socketOf(s.managerDir(0)))); err != nil {
			return "", err
		}
		err = patiently(ctx, func() error {
			r, err := s.api.SwarmInspect(ctx, client.SwarmInspectOptions{})
			s.token = r.Swarm.JoinTokens
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return "", nil
}

// freeAddr is a port that nobody listens on.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// join has all nodes join, and waits for their sessions.
func (s *scenario) join(ctx context.Context) (string, error) {
	var err error
	s.agents, err = spawn[agentsState]("agents", s.progress, roleAgents, "-dir", filepath.Join(s.dir, "agents"), "-count", fmt.Sprint(s.nodes),
		"-managers", strings.Join(s.addrs, ","), "-token", s.token.Worker, "-start", s.start.String())
	if err != nil {
		return "", err
	}
	if err := s.agents.until(ctx, "all sessions stand", func(a agentsState) bool { return a.Sessions == int64(s.nodes) }); err != nil {
		return "", err
	}
	return "", s.everywhere(ctx, "all nodes are ready", func(m managerState) bool { return m.Nodes == s.nodes+managersCount })
}

// everywhere waits until all managers say so.
func (s *scenario) everywhere(ctx context.Context, what string, ok func(managerState) bool) error {
	for _, m := range s.managers {
		if err := m.until(ctx, what, ok); err != nil {
			return err
		}
	}
	return nil
}

// settled waits until all tasks run, and nothing else is to.
func (s *scenario) settled(ctx context.Context) error {
	return s.everywhere(ctx, "all tasks run", func(m managerState) bool {
		return m.Tasks == s.tasks() && m.Run == m.Tasks && m.Stray == 0
	})
}

// create creates the services through the API, from which on the time counts.
func (s *scenario) create(ctx context.Context) (string, error) {
	networks := make([]string, s.networks)
	for i := range networks {
		name := fmt.Sprint("net", i)
		err := patiently(ctx, func() error {
			_, err := s.api.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "overlay"})
			return err
		})
		if err != nil {
			return "", err
		}
		networks[i] = name
	}
	began := time.Now()
	var g errgroup.Group
	g.SetLimit(createAtOnce)
	for i := range s.services {
		g.Go(func() error {
			spec := serviceOf(fmt.Sprint("svc", i), s.replicas)
			if len(networks) > 0 {
				spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: networks[i%len(networks)]}}
			}
			return s.createService(ctx, spec)
		})
	}
	if s.large > 0 {
		g.Go(func() error { return s.createService(ctx, s.largeService()) })
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	created := time.Since(began)
	if err := s.settled(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s (services created: %s)", seconds(time.Since(began)), seconds(created)), nil
}

func (s *scenario) createService(ctx context.Context, spec swarm.ServiceSpec) error {
	return patiently(ctx, func() error {
		_, err := s.api.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec})
		if errdefs.IsConflict(err) || errdefs.IsAlreadyExists(err) {
			return nil // an attempt before had not failed after all
		}
		return err
	})
}

// patiently repeats what failed for want of a leader: on a busy machine there may
// be none for a while.
func patiently(ctx context.Context, do func() error) error {
	for {
		err := do()
		if !errdefs.IsUnavailable(err) || ctx.Err() != nil {
			return err
		}
		pause(ctx, again)
	}
}

const largeName = "large"

func (s *scenario) largeService() swarm.ServiceSpec {
	spec := serviceOf(largeName, s.large)
	spec.UpdateConfig = &swarm.UpdateConfig{Parallelism: s.parallelism, Monitor: time.Second, FailureAction: swarm.UpdateFailureActionPause}
	return spec
}

func serviceOf(name string, replicas int) swarm.ServiceSpec {
	n := uint64(replicas)
	return swarm.ServiceSpec{
		Annotations: swarm.Annotations{Name: name},
		Mode:        swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &n}},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{Image: "registry.example/app:1", Env: []string{"A=1", "B=2"}},
			Resources:     &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: 1e6, MemoryBytes: 4 << 20}},
		},
	}
}

// memory is the most of all managers.
func (s *scenario) memory(context.Context) (string, error) {
	var rss, peak int64
	for _, m := range s.managers {
		u, err := m.used()
		if err != nil {
			return "", err
		}
		rss, peak = max(rss, u.rss), max(peak, u.peak)
	}
	return fmt.Sprintf("%d MiB (peak %d MiB)", rss>>20, peak>>20), nil
}

// idle is the CPU that each manager uses while nothing happens but heartbeats.
func (s *scenario) idle(ctx context.Context) (string, error) {
	before := make([]usage, len(s.managers))
	for i, m := range s.managers {
		var err error
		if before[i], err = m.used(); err != nil {
			return "", err
		}
	}
	began := time.Now()
	pause(ctx, s.rest)
	took := time.Since(began)
	each := make([]float64, len(s.managers))
	for i, m := range s.managers {
		u, err := m.used()
		if err != nil {
			return "", err
		}
		each[i] = 100 * (u.cpu - before[i].cpu).Seconds() / took.Seconds()
	}
	slices.Sort(each)
	return fmt.Sprintf("%.1f %% of a core", each), nil
}

// update rolls the large service over to a new version.
func (s *scenario) update(ctx context.Context) (string, error) {
	began := time.Now()
	err := patiently(ctx, func() error {
		r, err := s.api.ServiceInspect(ctx, largeName, client.ServiceInspectOptions{})
		if err != nil {
			return err
		}
		spec := r.Service.Spec
		spec.TaskTemplate.ContainerSpec.Image = "registry.example/app:2"
		_, err = s.api.ServiceUpdate(ctx, r.Service.ID, client.ServiceUpdateOptions{Version: r.Service.Version, Spec: spec})
		return err
	})
	if err != nil {
		return "", err
	}
	for {
		var u *swarm.UpdateStatus
		err := patiently(ctx, func() error {
			r, err := s.api.ServiceInspect(ctx, largeName, client.ServiceInspectOptions{})
			u = r.Service.UpdateStatus
			return err
		})
		if err != nil {
			return "", err
		}
		switch {
		case u == nil || u.State == swarm.UpdateStateUpdating:
		case u.State == swarm.UpdateStateCompleted:
			took := time.Since(began)
			return seconds(took), s.settled(ctx)
		default:
			return "", fmt.Errorf("the update is %s: %s", u.State, u.Message)
		}
		pause(ctx, again)
	}
}

// lose cuts the power of a tenth of the nodes.
func (s *scenario) lose(ctx context.Context) (string, error) {
	began := time.Now()
	n := s.nodes / lost
	if _, err := fmt.Fprintln(s.agents.in, "kill", n); err != nil {
		return "", err
	}
	if err := s.everywhere(ctx, "the nodes are given up", func(m managerState) bool { return m.Down >= n }); err != nil {
		return "", err
	}
	noticed := time.Since(began)
	if err := s.settled(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s (given up after %s)", seconds(time.Since(began)), seconds(noticed)), nil
}

// restart stops a follower and starts it again from its disk.
func (s *scenario) restart(ctx context.Context) (string, error) {
	i := slices.IndexFunc(s.managers, func(m *process[managerState]) bool { st, _ := m.look(); return !st.Leads })
	if i < 0 {
		return "", errors.New("every manager says that it leads")
	}
	before, err := s.managers[i].used()
	if err != nil {
		return "", err
	}
	if err := s.managers[i].stop(); err != nil {
		return "", err
	}
	began := time.Now()
	m, err := s.startManager(ctx, i)
	if err != nil {
		return "", err
	}
	s.ended, s.managers[i] = before.cpu, m
	took := time.Since(began)
	return seconds(took), s.settled(ctx)
}

// table prints rows as they come, with the same width.
type table struct{ w io.Writer }

func newTable(w io.Writer, head string) table {
	fmt.Fprintf(w, "| %s | | CPU of all managers, s |\n|---|---|---|\n", head)
	return table{w}
}

func (t table) row(what, figure, cpu string) {
	fmt.Fprintf(t.w, "| %s | %s | %s |\n", what, figure, cpu)
}
