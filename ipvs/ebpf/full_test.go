package ebpf

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/ipvs"
)

// A service for which there is no room says so; one that has its entry works on and can go.
func TestAFullMapSaysSo(t *testing.T) {
	r := newRig(t)
	r.set(publishedState(nodeA, ipvs.TCP, backend(task)))
	info, err := r.b.objects.Slots.Info()
	if err != nil {
		t.Fatal(err)
	}
	// The programs keep the map that they have: only its writer meets the small one.
	small, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: info.Name, Type: info.Type, KeySize: info.KeySize, ValueSize: info.ValueSize, MaxEntries: 2, Flags: unix.BPF_F_NO_PREALLOC,
	})
	if err != nil {
		t.Fatal(err)
	}
	large := r.b.objects.Slots
	r.b.objects.Slots = small
	t.Cleanup(func() { large.Close() })

	var many []ipvs.Backend
	for i := range 3 {
		many = append(many, backend(fmt.Sprintf("10.255.0.%d:80", 10+i)))
	}
	err = r.b.Set(publishedState(nodeA, ipvs.TCP, many...))
	var full *FullError
	if !errors.As(err, &full) || full.Map != "slots" || full.Capacity != 2 || !errors.Is(err, unix.E2BIG) {
		t.Fatalf("three backends with room for two: %v", err)
	}
	for _, what := range []string{"map slots of the load balancer is full", "2 entries", "mesh.lb.weight"} {
		if !strings.Contains(err.Error(), what) {
			t.Errorf("the error does not say %q: %v", what, err)
		}
	}
	delivered(t, "the service as it was", r.underlay(tcp(client, nodeA+":8080", syn)), underlay, client, task)
	r.set(publishedState(nodeA, ipvs.TCP, many[:2]...))
	fill, err := r.b.Fill()
	if err != nil {
		t.Fatal(err)
	}
	if fill["slots"] != (Fill{2, 2}) || fill["backends"].Entries != 2 || fill["services"].Entries != 1 || fill["services"].Capacity < 1000 {
		t.Errorf("fill: %v", fill)
	}
}
