package ebpf

import (
	"fmt"
	"testing"

	"github.com/meshd/meshd/ipvs"
)

func TestFlowsTellWhoTalksToWhom(t *testing.T) {
	r := newRig(t)
	s := vipState(backend("10.1.0.2"))
	s.Services = append(s.Services, ipvs.Service{
		Key: ipvs.Key{VNI: mesh, Port: 8080, Protocol: ipvs.UDP}, Name: "dns", Backends: []ipvs.Backend{backend("10.255.0.7:53")},
	})
	r.set(s)
	r.container(net1, tcp("10.1.0.9:40000", vip+":80", syn))
	r.container(net1, tcp("10.1.0.9:40001", vip+":80", syn))
	r.container(net1, tcp("10.1.0.9:40001", vip+":80", ack|0x04))
	r.underlay(udp("198.51.100.9:5000", "192.0.2.1:8080", "x"))
	got, err := r.b.Flows()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"dns outside 17 198.51.100.9:5000 192.0.2.1:8080 10.255.0.7:53 false",
		"web container 6 10.1.0.9:40000 10.1.0.100:80 10.1.0.2:80 false",
		"web container 6 10.1.0.9:40001 10.1.0.100:80 10.1.0.2:80 true",
	}
	if len(got) != len(want) {
		t.Fatalf("%d flows: %+v", len(got), got)
	}
	for i, f := range got {
		text := fmt.Sprint(f.Service, " ", f.Origin, " ", f.Protocol, " ", f.Client, " ", f.To, " ", f.Backend, " ", f.Closing)
		if text != want[i] {
			t.Errorf("got  %s\nwant %s", text, want[i])
		}
		if f.Idle.Seconds() > 60 {
			t.Errorf("%s: idle for %s", text, f.Idle)
		}
	}
}

// All of them are read, in however many batches.
func TestFlowsAreReadInBatches(t *testing.T) {
	r := newRig(t)
	r.set(vipState(backend("10.1.0.2")))
	const n = 3000
	for i := range n {
		r.container(net1, tcp(fmt.Sprintf("10.1.0.9:%d", 10000+i), vip+":80", syn))
	}
	got, err := r.b.Flows()
	if err != nil || len(got) < n*9/10 {
		t.Errorf("%d flows of %d, %v", len(got), n, err)
	}
	slow := 0
	if err := oneByOne(r.b.objects.Flows, func(flowKey, flow) bool { slow++; return true }); err != nil || slow != 2*len(got) {
		t.Errorf("%d entries one by one, %v", slow, err)
	}
}
