package observe

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/orchestrator/dispatcher"
	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/overlay"
)

func TestCheckFindsNothingWhereAllIsWell(t *testing.T) {
	r, err := twoNodes().observer(t).Check(t.Context())
	if err != nil || len(r.Differences) != 0 || r.Node != "a" || r.Hostname != "node1" || r.Networks != 3 || r.Tasks != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestCheckNamesWhatLasts(t *testing.T) {
	f := twoNodes()
	f.differences = []overlay.Difference{{Kind: "route", What: "route to 10.255.0.11", Want: "device 7", Have: "nothing"}}
	f.lasting = -1
	f.held.Services = f.held.Services[1:]
	f.attached = f.attached[1:]
	f.view.Held["n1"] = 18
	f.view.Desired.DNS.Zones["n1"].Names["new"] = f.view.Desired.DNS.Zones["n1"].Names["web"]
	f.deaf = map[netip.AddrPort]error{ap("10.255.0.1:53"): errBroken}
	f.member.Lags = []dispatcher.Lag{{Node: "b", Network: "n1", Held: 17, Revision: 20, Since: time.Unix(990, 0)}}
	r, err := f.observer(t).Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range r.Differences {
		got = append(got, fmt.Sprint(d.Part, " ", d.Kind, " ", d.What))
	}
	want := "balancer service web|manager acknowledgement network front on node2|node revision network front|overlay attachment web.1.t1 at 10.255.0.11 on network ingress|" +
		"overlay route route to 10.255.0.11|resolver listener resolver at 10.255.0.1:53|resolver name name new on network front"
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
}

// Only where there is IPv6 inside of containers, and a tunnel that it does not fit into.
func TestCheckNamesATunnelThatIsTooNarrow(t *testing.T) {
	for limit, want := range map[int]int{0: 0, 1230: 1, 1280: 0} {
		f := twoNodes()
		f.limit = limit
		if r, err := f.observer(t).Check(t.Context()); err != nil || len(r.Differences) != 0 {
			t.Errorf("limit %d, without IPv6: %+v, %v", limit, r, err)
		}
		f.view.Networks[1].Subnets = append(f.view.Networks[1].Subnets, protocol.Subnet{Prefix: netip.MustParsePrefix("fd00::/64")})
		r, err := f.observer(t).Check(t.Context())
		if err != nil || len(r.Differences) != want {
			t.Errorf("limit %d: %+v, %v", limit, r, err)
		}
		for _, d := range r.Differences {
			if d.Kind != "mtu" || !strings.Contains(d.Want, "1350") || !strings.Contains(d.Have, "1230") {
				t.Errorf("%+v", d)
			}
		}
	}
}

// Tasks are rejected where another route leads to their network.
func TestCheckNamesRoutesThatOverlap(t *testing.T) {
	o := twoNodes().observer(t)
	o.Overlap = func(n protocol.Network) error {
		if n.Name == "ingress" {
			return errBroken
		}
		return nil
	}
	r, err := o.Check(t.Context())
	if err != nil || len(r.Differences) != 1 || r.Differences[0].What != "network ingress" || r.Differences[0].Have != errBroken.Error() {
		t.Errorf("%+v, %v", r.Differences, err)
	}
}

// What was just being changed at the first look is no difference.
func TestCheckForgivesWhatPasses(t *testing.T) {
	f := twoNodes()
	f.differences = []overlay.Difference{{Kind: "route", What: "route to 10.255.0.11"}}
	f.lasting = 1
	if r, err := f.observer(t).Check(t.Context()); err != nil || len(r.Differences) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// webIsOut says that web.3 was ejected at second 1000, for 12 s.
func webIsOut(f *fakes) {
	f.ejected = []ipvs.Ejected{{
		Suspect: ipvs.Suspect{
			Key: ipvs.Key{VNI: 4097, VIP: at("10.0.1.2")}, Addr: at("10.0.1.12"), Asked: 80, Protocol: ipvs.TCP, Failure: ipvs.NoAnswer, Count: 5,
		},
		Service: "web", Until: time.Unix(1012, 0), Times: 1,
	}}
}

// Who is ejected is told, with the reason, and is no difference.
func TestCheckNamesTheEjected(t *testing.T) {
	f := twoNodes()
	webIsOut(f)
	r, err := f.observer(t).Check(t.Context())
	if err != nil || len(r.Differences) != 0 || len(r.Ejected) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	e := r.Ejected[0]
	if e.Service != "web" || e.Network != "front" || e.Task == "" || e.Seconds != 13 || e.Why != "port 80/tcp refused or did not answer 5 times in a row" {
		t.Errorf("%+v", e)
	}
}

func TestCheckNeedsToBeTold(t *testing.T) {
	f := twoNodes()
	f.view = View{}
	if _, err := f.observer(t).Check(t.Context()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "not part of a swarm") {
		t.Error(err)
	}
	f.view.Self = "a"
	if _, err := f.observer(t).Check(t.Context()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "No manager has told") {
		t.Error(err)
	}
}
