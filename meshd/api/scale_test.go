package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// BenchmarkLargeSwarm asks for what clients list most, with 1,000 services of 10
// tasks on one network.
func BenchmarkLargeSwarm(b *testing.B) {
	const count, each = 1000, 10
	r := newRig(b)
	shared := &store.Network{VNI: 4097, Ready: true}
	shared.ID, shared.Spec.Name = "sharedid", "shared"
	shared.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.0.0.0/18"), Gateway: netip.MustParseAddr("10.0.0.1")}}}
	r.create(shared)
	addr := shared.IPAMOptions.Configs[0].Gateway
	next := func() netip.Prefix {
		addr = addr.Next()
		return netip.PrefixFrom(addr, 18)
	}
	for i := range count {
		s := &store.Service{SpecVersion: 1}
		s.ID = fmt.Sprintf("service%05d", i)
		replicas := uint64(each)
		s.Spec.Name, s.Spec.Mode.Replicated = s.ID, &swarm.ReplicatedService{Replicas: &replicas}
		s.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: "image"}
		s.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: shared.ID}}
		s.Endpoint.VirtualIPs = []swarm.EndpointVirtualIP{{NetworkID: shared.ID, Addr: next()}}
		objects := []store.Object{s, &store.Spec{ServiceID: s.ID, Number: 1, Template: s.Spec.TaskTemplate}}
		for slot := range each {
			t := &store.Task{SpecVersion: 1}
			t.ID, t.ServiceID, t.Slot, t.NodeID = fmt.Sprintf("task%05d.%02d", i, slot), s.ID, slot+1, "node1id"
			t.DesiredState, t.Status.State = swarm.TaskStateRunning, swarm.TaskStateRunning
			a := swarm.NetworkAttachment{Addresses: []netip.Prefix{next()}}
			a.Network.ID = shared.ID
			t.NetworksAttachments = []swarm.NetworkAttachment{a}
			objects = append(objects, t)
		}
		r.create(objects...)
	}
	for _, c := range []struct{ name, path string }{
		{"service ls", "/v1.51/services?status=true"}, {"service inspect", "/v1.51/services/service00500"},
		{"service ps", `/v1.51/tasks?filters={"service":{"service00500":true}}`}, {"all tasks", "/v1.51/tasks"},
		{"network inspect", "/v1.51/networks/shared"}, {"network ls", "/v1.51/networks"}, {"node ls", "/v1.51/nodes"},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				r.do("GET", c.path, nil).want(http.StatusOK, "")
			}
		})
	}
}
