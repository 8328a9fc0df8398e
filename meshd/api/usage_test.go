package api

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

func TestNetworkShowsItsUsage(t *testing.T) {
	r := newRig(t)
	n := &store.Network{VNI: 4097, Ready: true}
	n.ID, n.Spec.Name = "frontid", "front"
	n.Aux = map[string]netip.Addr{"printer": netip.MustParseAddr("10.7.0.9")}
	n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{
		{Subnet: netip.MustParsePrefix("10.7.0.0/24"), Gateway: netip.MustParseAddr("10.7.0.1"), Range: netip.MustParsePrefix("10.7.0.128/25")},
		{Subnet: netip.MustParsePrefix("fd00::/120"), Gateway: netip.MustParseAddr("fd00::1")},
	}}
	s := &store.Service{}
	s.ID, s.Spec.Name = "webid", "web"
	s.Endpoint.VirtualIPs = []swarm.EndpointVirtualIP{{NetworkID: n.ID, Addr: netip.MustParsePrefix("10.7.0.50/24")}, {NetworkID: "other", Addr: netip.MustParsePrefix("10.7.0.51/24")}}
	r.create(n, s)
	for i, state := range []swarm.TaskState{swarm.TaskStateRunning, swarm.TaskStatePending, swarm.TaskStateFailed} {
		task := &store.Task{}
		task.ID, task.ServiceID, task.Status.State = fmt.Sprint("task", i), s.ID, state
		a := swarm.NetworkAttachment{Addresses: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.7.0.%d/24", 130+i)), netip.MustParsePrefix(fmt.Sprintf("fd00::%d/120", 5+i)),
		}}
		a.Network.ID = n.ID
		task.NetworksAttachments = []swarm.NetworkAttachment{a}
		r.create(task)
	}
	got := decode[network.Inspect](r.do("GET", "/networks/front", nil).want(200, "")).Status
	// The ends of the subnet, gateway, printer, virtual IP and two tasks; 127 hosts of the range but for two.
	want := network.SubnetStatuses{
		netip.MustParsePrefix("10.7.0.0/24"): {IPsInUse: 7, DynamicIPsAvailable: 125},
		netip.MustParsePrefix("fd00::/120"):  {IPsInUse: 4, DynamicIPsAvailable: 252},
	}
	if got == nil || fmt.Sprint(got.IPAM.Subnets) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
