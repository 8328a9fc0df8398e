package meshd

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/store"
)

var (
	simSeed  = flag.Uint64("sim.seed", 1, "first seed of the simulations")
	simSeeds = flag.Uint64("sim.seeds", 2, "how many simulations, each with the next seed")
	simSteps = flag.Int("sim.steps", 120, "random steps of each")
)

// user asks the managers for things and remembers what they acknowledged.
type user struct {
	*simulation
	requests sync.WaitGroup

	mu      sync.Mutex // guards what follows
	configs map[string]bool
	// services by name: true is acknowledged, false asked to go.
	services map[string]bool
	calls    map[int]int // by status
}

// Whatever users, nodes, tasks, the network and the clocks do: what must never
// happen does not, and once they leave the cluster alone it becomes what was
// asked for.
func TestClusterUnderRandomActions(t *testing.T) {
	for seed := *simSeed; seed < *simSeed+*simSeeds; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := &user{
					simulation: newSimulation(t, seed, 3, 3), configs: map[string]bool{}, services: map[string]bool{}, calls: map[int]int{},
				}
				defer u.close()
				for _, n := range u.nodes {
					n.engine.setFaulty(true)
				}
				for range *simSteps {
					u.step()
					<-time.After(time.Duration(u.rng.Int64N(int64(4 * time.Second))))
					u.check()
				}
				u.heal()
				u.until("everything is as it was asked for", u.settled)
				u.check()
				u.same()
				u.acknowledged()
				t.Logf("answers by status: %v", u.calls)
			})
		})
	}
}

// step does one random thing.
func (u *user) step() {
	n := u.nodes[u.rng.IntN(len(u.nodes))]
	switch k := u.rng.IntN(100); {
	case k < 55:
		u.ask()
	case k < 62:
		n.engine.endOne(u.rng.IntN, agent.Exit{Code: u.rng.IntN(2)})
	case k < 69:
		u.network.Part(n.name, u.nodes[u.rng.IntN(len(u.nodes))].name)
	case k < 72: // all alone
		for _, o := range u.nodes {
			u.network.Part(n.name, o.name)
		}
	case k < 82:
		u.network.JoinAll()
	case k < 84:
		n.mu.Lock()
		n.skew = time.Duration(u.rng.Int64N(int64(2*time.Hour))) - time.Hour
		n.mu.Unlock()
	case k < 90:
		for _, n := range u.nodes {
			if !n.isUp() {
				n.start()
			}
		}
	case k < 96:
		u.toggle(n)
	default:
		if lead := u.leader(); lead != nil {
			u.toggle(lead)
		}
	}
}

// toggle takes a daemon down in one of three ways, or starts it again.
func (u *user) toggle(n *simNode) {
	if !n.isUp() {
		n.start()
		return
	}
	switch u.rng.IntN(3) {
	case 0:
		n.stop()
		n.start()
	case 1:
		n.crash()
	case 2:
		n.crash()
		n.engine.endAll()
	}
}

// heal ends all that is against the cluster.
func (u *user) heal() {
	u.network.JoinAll()
	for _, n := range u.nodes {
		n.engine.setFaulty(false)
		if !n.isUp() {
			n.start()
		}
	}
	u.requests.Wait()
	for _, n := range u.nodes {
		u.eventually(fmt.Sprintf("node %s is made active", n.name), func() bool {
			return u.availability(u.nodes[0], n.id, swarm.NodeAvailabilityActive) == http.StatusOK
		})
	}
	// What failed too often for an update to go on is asked for anew.
	u.eventually("paused updates are asked for anew", func() bool {
		var all []swarm.Service
		if status, _ := u.nodes[0].call(u.ctx(), http.MethodGet, "/services", nil, &all); status != http.StatusOK {
			return false
		}
		for _, s := range all {
			s.Spec.TaskTemplate.ForceUpdate++
			if u.update(u.ctx(), u.nodes[0], s) != http.StatusOK {
				return false
			}
		}
		return true
	})
}

func (u *user) eventually(what string, ok func() bool) {
	u.Helper()
	for range 120 {
		if ok() {
			return
		}
		<-time.After(time.Second)
	}
	u.Fatalf("in vain waited until %s", what)
}

// acknowledged checks that nothing that was acknowledged is lost.
func (u *user) acknowledged() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, m := range u.live() {
		m.store.View(func(v *store.View) {
			configs := map[string]bool{}
			for _, c := range v.Configs() {
				configs[c.Spec.Name] = true
			}
			for name := range u.configs {
				if !configs[name] {
					u.Errorf("config %s was acknowledged and is lost", name)
				}
			}
			for name, kept := range u.services {
				if kept && v.ServiceByName(name) == nil {
					u.Errorf("service %s was acknowledged and is lost", name)
				}
			}
		})
	}
}

const requestTime = 30 * time.Second

// ask makes a random request to a random manager, without waiting for the answer.
func (u *user) ask() {
	rng := rand.New(rand.NewPCG(u.rng.Uint64(), 3))
	managers := len(u.managers())
	via, node := u.nodes[rng.IntN(managers)], u.nodes[rng.IntN(len(u.nodes))]
	u.requests.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), requestTime)
		defer cancel()
		status := u.request(ctx, rng, via, node)
		u.mu.Lock()
		defer u.mu.Unlock()
		u.calls[status]++
	})
}

func (u *user) request(ctx context.Context, rng *rand.Rand, via, node *simNode) int {
	name := fmt.Sprintf("s%d", rng.IntN(6))
	switch k := rng.IntN(20); {
	case k < 3:
		return u.createConfig(ctx, via, fmt.Sprintf("c%d", rng.Uint64()))
	case k < 4:
		status, _ := via.call(ctx, http.MethodPost, "/networks/create", network.CreateRequest{Name: fmt.Sprintf("net%d", rng.IntN(3)), Driver: "overlay"}, nil)
		return status
	case k < 5:
		status, _ := via.call(ctx, http.MethodDelete, fmt.Sprintf("/networks/net%d", rng.IntN(3)), nil, nil)
		return status
	case k < 6:
		return u.availability(via, node.id, swarm.NodeAvailabilityDrain)
	case k < 8:
		return u.availability(via, node.id, swarm.NodeAvailabilityActive)
	case k < 9:
		u.note(name, false)
		status, _ := via.call(ctx, http.MethodDelete, "/services/"+name, nil, nil)
		return status
	}
	var s swarm.Service
	status, _ := via.call(ctx, http.MethodGet, "/services/"+name, nil, &s)
	switch status {
	case http.StatusNotFound:
		status, message := via.call(ctx, http.MethodPost, "/services/create", randomSpec(rng, name), nil)
		if status == http.StatusCreated {
			u.note(name, true)
		} else if status == http.StatusBadRequest {
			u.Errorf("a service is refused: %s", message)
		}
		return status
	case http.StatusOK:
		changeSpec(rng, &s.Spec)
		return u.update(ctx, via, s)
	}
	return status
}

// note remembers of a service what was acknowledged; what is asked to go at the
// same time may be there or not.
func (u *user) note(name string, kept bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.services[name] = kept
}

func (u *user) createConfig(ctx context.Context, via *simNode, name string) int {
	spec := swarm.ConfigSpec{Annotations: swarm.Annotations{Name: name}, Data: []byte("x")}
	status, _ := via.call(ctx, http.MethodPost, "/configs/create", spec, nil)
	if status == http.StatusCreated {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.configs[name] = true
	}
	return status
}

func (u *user) update(ctx context.Context, via *simNode, s swarm.Service) int {
	status, _ := via.call(ctx, http.MethodPost, fmt.Sprintf("/services/%s/update?version=%d", s.ID, s.Version.Index), s.Spec, nil)
	return status
}

func (u *user) availability(via *simNode, id string, a swarm.NodeAvailability) int {
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	var n swarm.Node
	if status, _ := via.call(ctx, http.MethodGet, "/nodes/"+id, nil, &n); status != http.StatusOK {
		return status
	}
	n.Spec.Availability = a
	status, _ := via.call(ctx, http.MethodPost, fmt.Sprintf("/nodes/%s/update?version=%d", id, n.Version.Index), n.Spec, nil)
	return status
}

// randomSpec is a service's. Of those with a port of the node there are no more
// than nodes, old and new together, so that updates always have room.
func randomSpec(rng *rand.Rand, name string) swarm.ServiceSpec {
	s := swarm.ServiceSpec{Annotations: swarm.Annotations{Name: name}}
	s.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: "image"}
	replicas := uint64(rng.IntN(8))
	s.Mode.Replicated = &swarm.ReplicatedService{Replicas: &replicas}
	delay := time.Duration(rng.IntN(3)) * time.Second
	s.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionAny, Delay: &delay}
	s.EndpointSpec = &swarm.EndpointSpec{}
	switch rng.IntN(4) {
	case 0:
		s.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}}
	case 1:
		s.EndpointSpec.Ports = []swarm.PortConfig{{TargetPort: 80, Protocol: network.TCP}}
	case 2:
		replicas %= 4
		s.EndpointSpec.Ports = []swarm.PortConfig{{TargetPort: 80, PublishedPort: 8000 + uint32(name[1]), Protocol: network.TCP, PublishMode: swarm.PortConfigPublishModeHost}}
	}
	s.UpdateConfig = &swarm.UpdateConfig{Order: swarm.UpdateOrderStopFirst} // stays as it is
	if rng.IntN(2) == 0 {
		s.UpdateConfig.Order = swarm.UpdateOrderStartFirst
	}
	changeUpdate(rng, &s)
	return s
}

func changeUpdate(rng *rand.Rand, s *swarm.ServiceSpec) {
	s.UpdateConfig = &swarm.UpdateConfig{
		Parallelism: uint64(rng.IntN(4)), Order: s.UpdateConfig.Order, Delay: time.Duration(rng.IntN(2)) * time.Second,
		FailureAction: []swarm.FailureAction{swarm.UpdateFailureActionPause, swarm.UpdateFailureActionContinue, swarm.UpdateFailureActionRollback}[rng.IntN(3)],
	}
}

func changeSpec(rng *rand.Rand, s *swarm.ServiceSpec) {
	switch r := s.Mode.Replicated; {
	case r != nil && rng.IntN(2) == 0:
		replicas := uint64(rng.IntN(8))
		if len(s.EndpointSpec.Ports) > 0 && s.EndpointSpec.Ports[0].PublishMode == swarm.PortConfigPublishModeHost {
			replicas %= 4
		}
		r.Replicas = &replicas
	case rng.IntN(3) == 0:
		changeUpdate(rng, s)
	default:
		s.TaskTemplate.ForceUpdate++
	}
}
