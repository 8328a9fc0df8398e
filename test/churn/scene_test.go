package churn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/test/lab"
	"github.com/meshd/meshd/test/probe"
)

const (
	labName = "churn"
	// maglev spreads by chance alone, random2 is the default.
	maglev, random2 = "maglev", "random2"
	port            = 8080
	datagram        = 9000
	// datagrams begins the targets that get some.
	datagrams = "udp://"
	// held is how many connections such a client has.
	held = 50
	beat = 25 * time.Millisecond
	// slowBeat is that of clients of UDP, and of those which keep connections: these are idle for some seconds between two calls.
	slowBeat = 100 * time.Millisecond
	// callTimeout leaves a call the time to be lost by chance, twice (a SYN is repeated after one second and three).
	callTimeout = 4 * time.Second
	// holdTimeout is as long as a machine with too much to do may take over a call on a connection that stands.
	holdTimeout = 20 * time.Second
	patience    = 3 * time.Minute
)

// quiet are the nodes where clients in containers live.
var quiet = []string{"node1", "node2"}

func TestMain(m *testing.M) {
	if code, ran := lab.Reexec(); ran {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// scene is a cluster with clients at work.
type scene struct {
	t   *testing.T
	ctx context.Context
	lab *lab.Lab
	api *client.Client
	// hosts gives a node's name by its ID, ids the other way round.
	hosts, ids map[string]string
	// addresses are those of the nodes by name.
	addresses map[string]string
	// algorithm is how the service's connections are spread.
	algorithm string
	web       string // ID of the service
	network   string // ID of the network
	replicas  int
	probes    []*probe.Probe
}

func newScene(ctx context.Context, t *testing.T, bin, algorithm string) *scene {
	t.Helper()
	s := &scene{t: t, ctx: ctx, hosts: map[string]string{}, ids: map[string]string{}, addresses: map[string]string{}, algorithm: algorithm, replicas: 5}
	for _, err := range []error{s.up(bin), s.deploy(), s.callFromOutside(bin), s.callFromInside()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *scene) up(bin string) error {
	if err := lab.Down(s.ctx, labName, os.Stderr); err != nil {
		return err
	}
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.showLogs()
		}
		if err := lab.Down(context.Background(), labName, os.Stderr); err != nil {
			s.t.Error(err)
		}
	})
	var err error
	o := lab.Options{Name: labName, Nodes: 4, Managers: 3, Meshd: filepath.Join(bin, "meshd"), Progress: os.Stderr}
	if s.lab, err = lab.Up(s.ctx, o); err != nil {
		return err
	}
	if err := s.lab.Load(s.ctx, filepath.Join(bin, "../build/sample.tar")); err != nil {
		return err
	}
	if s.api, err = s.lab.MeshdClient("node1"); err != nil {
		return err
	}
	nodes, err := s.api.NodeList(s.ctx, client.NodeListOptions{})
	for _, n := range nodes.Items {
		s.hosts[n.ID], s.ids[n.Description.Hostname] = n.Description.Hostname, n.ID
	}
	return err
}

// showLogs prints the warnings of all daemons: nothing else is kept.
func (s *scene) showLogs() {
	logs, _ := filepath.Glob(filepath.Join("/run/meshd", labName, "*", "meshd.log"))
	for _, l := range logs {
		text, _ := os.ReadFile(l)
		lines := strings.Split(string(text), "\n")
		for _, line := range lines[max(0, len(lines)-80):] {
			if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
				s.t.Logf("%s: %s", filepath.Base(filepath.Dir(l)), line)
			}
		}
	}
}

func (s *scene) deploy() error {
	n, err := s.api.NetworkCreate(s.ctx, "net", client.NetworkCreateOptions{Driver: "overlay", Scope: "swarm"})
	if err != nil {
		return err
	}
	s.network = n.ID
	replicas, grace := uint64(s.replicas), 10*time.Second
	spec := func(name string, mode swarm.ServiceMode, args ...string) swarm.ServiceSpec {
		return swarm.ServiceSpec{
			Annotations: swarm.Annotations{Name: name},
			TaskTemplate: swarm.TaskSpec{
				ContainerSpec: &swarm.ContainerSpec{Image: webImage, Args: args, StopGracePeriod: &grace},
				Networks:      []swarm.NetworkAttachmentConfig{{Target: n.ID}},
			},
			Mode: mode,
		}
	}
	web := spec("web", swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}})
	web.Labels = map[string]string{"mesh.lb": s.algorithm}
	web.UpdateConfig = &swarm.UpdateConfig{Parallelism: 2, Order: swarm.UpdateOrderStartFirst, Monitor: 100 * time.Millisecond}
	web.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{
		{Protocol: network.TCP, TargetPort: port, PublishedPort: port}, {Protocol: network.UDP, TargetPort: datagram, PublishedPort: datagram},
	}}
	r, err := s.api.ServiceCreate(s.ctx, client.ServiceCreateOptions{Spec: web})
	if err != nil {
		return err
	}
	s.web = r.ID
	clients := spec("client", swarm.ServiceMode{Global: &swarm.GlobalService{}}, "sleep")
	if _, err := s.api.ServiceCreate(s.ctx, client.ServiceCreateOptions{Spec: clients}); err != nil {
		return err
	}
	return s.until("the service runs", s.asDesired)
}

// callFromOutside calls the published ports of each node, and keeps connections to one that no step touches.
func (s *scene) callFromOutside(bin string) error {
	nodes, err := s.lab.Ls(s.ctx)
	outside := probe.Spec{Node: lab.Client, Sample: filepath.Join(bin, "sample")}
	for _, n := range nodes {
		s.addresses[n.Name] = n.Address
		if err := s.startAll(outside, fmt.Sprintf("http://%s:%d/", n.Address, port)); err != nil {
			return err
		}
		if err := s.startAll(outside, fmt.Sprintf("%s%s:%d", datagrams, n.Address, datagram)); err != nil {
			return err
		}
		if n.Name != quiet[0] {
			continue
		}
		outside := outside
		outside.Hold = held
		if err := s.startAll(outside, fmt.Sprintf("http://%s:%d/", n.Address, port)); err != nil {
			return err
		}
	}
	return err
}

// callFromInside calls by name, by the virtual address, and looks names up.
func (s *scene) callFromInside() error {
	web, err := s.api.ServiceInspect(s.ctx, s.web, client.ServiceInspectOptions{})
	if err != nil {
		return err
	}
	vip := ""
	for _, v := range web.Service.Endpoint.VirtualIPs {
		if v.NetworkID == s.network {
			vip = v.Addr.Addr().String()
		}
	}
	for _, node := range quiet {
		pid, err := s.clientOn(node)
		if err != nil {
			return err
		}
		inside := probe.Spec{Node: node, PID: pid}
		if err := s.startAll(inside, "http://web:8080/", fmt.Sprintf("http://%s:%d/", vip, port)); err != nil {
			return err
		}
		holding, looking := inside, inside
		holding.Hold, looking.Lookup = held, true
		if err := errors.Join(s.startAll(holding, "http://web:8080/"), s.startAll(looking, "tasks.web"),
			s.startAll(inside, fmt.Sprintf("%sweb:%d", datagrams, datagram))); err != nil {
			return err
		}
	}
	return nil
}

// clientOn waits for the client service's container on a node, and returns its process.
func (s *scene) clientOn(node string) (pid int, err error) {
	engine, err := s.lab.EngineClient(node)
	if err != nil {
		return 0, err
	}
	defer engine.Close()
	filter := make(client.Filters).Add("label", "com.docker.swarm.service.name=client")
	err = s.until("a client on "+node, func() error {
		list, err := engine.ContainerList(s.ctx, client.ContainerListOptions{Filters: filter})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("%d containers", len(list.Items))
		}
		c, err := engine.ContainerInspect(s.ctx, list.Items[0].ID, client.ContainerInspectOptions{})
		if err == nil {
			pid = c.Container.State.Pid
		}
		return err
	})
	return pid, err
}

func (s *scene) startAll(spec probe.Spec, targets ...string) error {
	spec.Every, spec.Timeout = beat, callTimeout
	if spec.Hold > 0 {
		spec.Every, spec.Timeout = slowBeat, holdTimeout
	} else if strings.HasPrefix(targets[0], datagrams) {
		spec.Every = slowBeat
	}
	for _, target := range targets {
		spec.Target = target
		p, err := probe.Start(s.lab, spec)
		if err != nil {
			return err
		}
		s.probes = append(s.probes, p)
	}
	return nil
}

func (s *scene) stop() error {
	var errs []error
	for _, p := range s.probes {
		errs = append(errs, p.Stop())
	}
	return errors.Join(errs...)
}

// until waits for a condition; the error tells what was missing last.
func (s *scene) until(what string, check func() error) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %v: %w", what, patience, err)
		case <-tick.C:
		}
	}
}
