package plan

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/orchestrator/protocol"
)

func TestTasksAreClientsOnAllTheirNetworks(t *testing.T) {
	in := fixture()
	in.Tasks = append(in.Tasks, protocol.Assignment{Task: swarm.Task{ID: "on the host's network"}}, protocol.Assignment{Task: swarm.Task{
		ID: "on a network that is not known yet",
		NetworksAttachments: []swarm.NetworkAttachment{
			{Network: swarm.Network{ID: "n9"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.9.9/24")}},
		},
	}})
	want := []ipvs.Client{{Addrs: []ipvs.ClientAddr{{VNI: 4096, Addr: addr("10.255.0.11")}, {VNI: 4097, Addr: addr("10.0.1.11")}}}}
	if got := Compile(in).IPVS.Clients; !reflect.DeepEqual(got, want) {
		t.Errorf("clients = %v, want %v", got, want)
	}
}
