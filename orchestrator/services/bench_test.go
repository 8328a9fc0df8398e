package services

import (
	"fmt"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/store/storetest"
)

// BenchmarkDecide looks at a service all of whose tasks run, in the middle of an
// update: what each change of one of its tasks costs.
func BenchmarkDecide(b *testing.B) {
	for _, count := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint("tasks=", count), func(b *testing.B) {
			s := halfway(b, count)
			b.ReportAllocs()
			for b.Loop() {
				s.View(func(v *store.View) {
					nodes := map[string]*store.Node{}
					for _, n := range v.Nodes() {
						nodes[n.ID] = n
					}
					decide(picture{
						id: "svc", service: v.Service("svc"), tasks: v.TasksOfService("svc"), specs: v.SpecsOf("svc"),
						nodes: nodes, now: time.Now().UTC(),
					})
				})
			}
		})
	}
}

// halfway is a store with a service of which half the tasks are updated.
func halfway(b *testing.B, count int) *store.Store {
	s, prop := storetest.New()
	storetest.Do(b, s, prop, func(tx *store.Tx) {
		now := time.Now().UTC()
		svc := &store.Service{SpecVersion: 2, UpdateVersion: 2}
		svc.ID, svc.Spec.Mode = "svc", replicas(uint64(count))
		svc.UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStateUpdating, StartedAt: &now}
		tx.Create(svc)
		for number := range uint64(2) {
			tx.Create(&store.Spec{ServiceID: "svc", Number: number + 1, Template: svc.Spec.TaskTemplate})
		}
		for i := range 100 {
			n := &store.Node{}
			n.ID = fmt.Sprint("n", i)
			n.Status.State, n.Spec.Availability = swarm.NodeStateReady, swarm.NodeAvailabilityActive
			tx.Create(n)
		}
		for i := range count {
			t := &store.Task{SpecVersion: uint64(1 + i%2)}
			t.ID, t.ServiceID, t.Slot, t.NodeID = store.NewID(), "svc", i+1, fmt.Sprint("n", i%100)
			t.DesiredState, t.Status.State = swarm.TaskStateRunning, swarm.TaskStateRunning
			tx.Create(t)
		}
	})
	return s
}
