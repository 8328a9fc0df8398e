package meshd

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/moby/moby/api/types/swarm"
)

var (
	linearSeeds = flag.Uint64("linear.seeds", 3, "how many histories are checked, from -sim.seed on")
	linearCalls = flag.Int("linear.calls", 60, "requests of each client in a history")
)

// A register is a config with one label, whose values are all different. A state
// is the value, empty when there is no such config.
type (
	registerCall struct {
		method   string // POST creates, PUT updates, GET, DELETE
		register string
		value    string
		expect   string // of an update: the value read with the version it names
	}
	registerAnswer struct {
		status int // 0: nobody knows
		value  string
	}
)

const conflict = http.StatusConflict

func register() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			by := map[string][]porcupine.Operation{}
			for _, o := range history {
				key := o.Input.(registerCall).register
				by[key] = append(by[key], o)
			}
			var out [][]porcupine.Operation
			for _, part := range by {
				out = append(out, part)
			}
			return out
		},
		Init: func() any { return "" },
		Step: func(state, input, output any) (bool, any) {
			return stepRegister(state.(string), input.(registerCall), output.(registerAnswer))
		},
	}
}

// stepRegister says whether a register in a state may answer a call so, and its
// next state.
func stepRegister(state string, in registerCall, out registerAnswer) (bool, any) {
	want, next := http.StatusOK, state
	switch {
	case in.method == http.MethodPost && state != "":
		want = conflict
	case in.method == http.MethodPost:
		want, next = http.StatusCreated, in.value
	case in.method == http.MethodPut && state == "" && out.status == conflict:
		want = conflict // gone, too, is out of sequence
	case state == "":
		want = http.StatusNotFound
	case in.method == http.MethodPut && state != in.expect:
		want = conflict
	case in.method == http.MethodPut:
		next = in.value
	case in.method == http.MethodDelete:
		want, next = http.StatusNoContent, ""
	default:
		return out.value == state, state
	}
	return out.status == want || out.status == 0, next
}

// The API's reads and writes, through any managers, are those of one register
// that is never wrong, whatever becomes of leaders and the network.
func TestLinearisable(t *testing.T) {
	for seed := *simSeed; seed < *simSeed+*linearSeeds; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			var h *history
			synctest.Test(t, func(t *testing.T) {
				s := newSimulation(t, seed, 3, 0)
				defer s.close()
				h = s.record(*linearCalls)
			})
			result, info := porcupine.CheckOperationsVerbose(register(), h.calls, 2*time.Minute)
			switch result {
			case porcupine.Ok:
				t.Logf("%d answers, %d of them unknown", len(h.calls), h.unknown)
			case porcupine.Unknown:
				t.Log("gave up on checking the history: too many answers are unknown")
			case porcupine.Illegal:
				file := t.TempDir() + "/history.html"
				if err := porcupine.VisualizePath(register(), info, file); err != nil {
					t.Log(err)
				}
				for _, o := range h.calls {
					t.Logf("%d-%d client %d: %+v: %+v", o.Call, o.Return, o.ClientId, o.Input, o.Output)
				}
				t.Errorf("the history of seed %d is not linearisable", seed)
			}
		})
	}
}

// history is what clients saw. Its clock is the order of calls and returns.
type history struct {
	clock atomic.Int64

	mu      sync.Mutex // guards what follows
	calls   []porcupine.Operation
	unknown int
	// versions are those that values were read with.
	versions map[string]uint64
}

// record has clients call random managers while leaders fall.
func (s *simulation) record(calls int) *history {
	h := &history{versions: map[string]uint64{}}
	var clients sync.WaitGroup
	for id := range 5 {
		rng := rand.New(rand.NewPCG(s.rng.Uint64(), 4))
		clients.Go(func() {
			c := client{simulation: s, history: h, rng: rng, id: id}
			for range calls {
				c.call()
				<-time.After(time.Duration(rng.Int64N(int64(400 * time.Millisecond))))
			}
		})
	}
	done := make(chan struct{})
	go func() {
		clients.Wait()
		close(done)
	}()
	for {
		select {
		case <-done:
			return h
		case <-time.After(time.Duration(s.rng.Int64N(int64(3 * time.Second)))):
			s.depose()
		}
	}
}

// depose does something to the leader, or undoes what was done.
func (s *simulation) depose() {
	lead := s.leader()
	for _, n := range s.nodes {
		if !n.isUp() {
			n.start()
			return
		}
	}
	switch k := s.rng.IntN(6); {
	case k < 2 || lead == nil:
		s.network.JoinAll()
	case k == 2:
		lead.crash()
	case k == 3:
		lead.stop()
		lead.start()
	case k == 4:
		for _, o := range s.nodes {
			s.network.Part(lead.name, o.name)
		}
	default:
		s.network.Part(lead.name, s.nodes[s.rng.IntN(len(s.nodes))].name)
	}
}

// client makes one call after the other.
type client struct {
	*simulation
	*history
	rng *rand.Rand
	id  int
}

func (c *client) call() {
	name := fmt.Sprintf("register%d", c.rng.IntN(4))
	switch c.rng.IntN(8) {
	case 0, 1:
		c.do(registerCall{method: http.MethodPost, register: name, value: fmt.Sprint("v", c.rng.Uint64())}, 0)
	case 2:
		c.do(registerCall{method: http.MethodDelete, register: name}, 0)
	case 3, 4, 5:
		read, version := c.do(registerCall{method: http.MethodGet, register: name}, 0)
		if read.status == http.StatusOK {
			c.do(registerCall{method: http.MethodPut, register: name, value: fmt.Sprint("v", c.rng.Uint64()), expect: read.value}, version)
		}
	default:
		c.do(registerCall{method: http.MethodGet, register: name}, 0)
	}
}

// do makes a call through any manager and enters it into the history.
func (c *client) do(in registerCall, base uint64) (registerAnswer, uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	via := c.nodes[c.rng.IntN(len(c.nodes))]
	spec := swarm.ConfigSpec{Annotations: swarm.Annotations{Name: in.register, Labels: map[string]string{"value": in.value}}, Data: []byte("x")}
	path := "/configs/" + in.register
	method := in.method
	switch method {
	case http.MethodPost:
		path = "/configs/create"
	case http.MethodPut:
		method, path = http.MethodPost, fmt.Sprintf("%s/update?version=%d", path, base)
	}
	var got swarm.Config
	begun := c.clock.Add(1)
	status, message := via.call(ctx, method, path, spec, &got)
	ended := c.clock.Add(1)
	out := registerAnswer{status: status, value: got.Spec.Labels["value"]}
	if strings.Contains(message, "out of sequence") {
		out.status = conflict
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case status == 0:
		return out, 0
	case out.status >= http.StatusInternalServerError:
		// Who is told that there is no leader, and no more, has changed nothing.
		if in.method == http.MethodGet || strings.Contains(message, "does not have a leader") && !strings.Contains(message, "not known") {
			return out, 0
		}
		out.status, ended = 0, math.MaxInt64
		c.unknown++
	case out.status == http.StatusOK && in.method == http.MethodGet:
		if known, ok := c.versions[out.value]; ok && known != got.Version.Index {
			c.Errorf("%s was read with versions %d and %d", out.value, known, got.Version.Index)
		}
		c.versions[out.value] = got.Version.Index
	}
	c.calls = append(c.calls, porcupine.Operation{ClientId: c.id, Input: in, Call: begun, Output: out, Return: ended})
	return out, got.Version.Index
}
