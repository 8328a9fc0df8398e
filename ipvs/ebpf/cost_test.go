package ebpf

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/meshd/meshd/ipvs"
)

// What the programs cost a packet that is not theirs, as nearly all are. Run with -v
// to see; the bound only catches what has gone badly wrong.
func TestCostOfOthersPackets(t *testing.T) {
	r := newRig(t)
	r.set(publishedState(nodeA, ipvs.TCP, backend(task)))
	for what, c := range map[string]struct {
		p *ebpf.Program
		f frame
	}{
		"underlay, unpublished": {r.b.objects.BalanceUnderlay, tcp(client, nodeA+":22", ack)},
		"underlay, other proto": {r.b.objects.BalanceUnderlay, udp(client, nodeA+":4789", "x")},
		"container, direct TCP": {r.b.objects.BalanceContainer, tcp("10.1.0.9:1", "10.1.0.2:2", ack)},
		"container, direct UDP": {r.b.objects.BalanceContainer, udp("10.1.0.9:1", "10.1.0.2:2", "x")},
		"tunnel, direct TCP":    {r.b.objects.BalanceTunnel, tcp("10.1.0.9:1", "10.1.0.2:2", ack)},
	} {
		_, took, err := c.p.Benchmark(c.f.bytes(), 20000, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %v", what, took)
		if took.Microseconds() > 20 {
			t.Errorf("%s: %v a packet", what, took)
		}
	}
}
