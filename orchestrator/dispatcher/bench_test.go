package dispatcher

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
)

// BenchmarkFanOut is the cost of one change of a published service's task for
// 100 sessions that all have the mesh network, with 1,000 services of 10 tasks on
// it: finding and encoding the difference for each.
func BenchmarkFanOut(b *testing.B) {
	const nodes, services, tasks = 100, 1000, 10
	st, proposer := storetest.New()
	change := func(fn func(*store.Tx)) {
		if err := store.Transact(context.Background(), st, proposer, func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
			b.Fatal(err)
		}
	}
	change(func(tx *store.Tx) {
		tx.Create(network("mesh", 4096, "10.255.0.0/16", true))
		for i := range nodes {
			tx.Create(&store.Node{Node: swarm.Node{ID: fmt.Sprint("n", i)}})
		}
		for i := range services {
			web := service(fmt.Sprint("web", i), "user")
			web.Endpoint.Ports = []swarm.PortConfig{{TargetPort: 80, PublishedPort: uint32(30000 + i)}}
			tx.Create(web)
		}
		for i := range services * tasks {
			tx.Create(task(fmt.Sprint("t", i), fmt.Sprint("web", i%services), fmt.Sprint("n", i%nodes), byte(i), swarm.TaskStateRunning))
		}
	})
	c := newCache(time.Now)
	w := st.Watch(func(v *store.View) { c.reset(v.Index(), v.Services()) })
	defer w.Close()
	var sessions []*session
	st.View(func(v *store.View) {
		for i := range nodes {
			s := newSession(fmt.Sprint("n", i), v.Index(), nil)
			s.next(v, c)
			sessions = append(sessions, s)
		}
	})
	states := []swarm.TaskState{swarm.TaskStateShutdown, swarm.TaskStateRunning}
	var sent atomic.Int64
	rounds := 0
	for i := 0; b.Loop(); i++ {
		rounds++
		change(func(tx *store.Tx) {
			t := *tx.Task("t7")
			t.DesiredState = states[i%2]
			tx.Update(&t)
		})
		commit, touch := <-w.C, newTouched()
		c.apply(commit, touch)
		for _, s := range sessions {
			s.note(commit.Index, touch)
		}
		var wg sync.WaitGroup
		for _, part := range [][]*session{sessions[:nodes/2], sessions[nodes/2:]} {
			wg.Go(func() {
				for _, s := range part {
					var m *protocol.Message
					st.View(func(v *store.View) { m = s.next(v, c) })
					if m == nil || len(m.Networks) != 1 {
						b.Errorf("%s: %+v", s.node, m)
					}
					data, err := json.Marshal(m)
					if err != nil {
						b.Error(err)
					}
					sent.Add(int64(len(data)))
				}
			})
		}
		wg.Wait()
	}
	b.ReportMetric(float64(sent.Load())/float64(rounds*nodes), "bytes/node")
}
