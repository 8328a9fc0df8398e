package protocol

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// Random changes to a list that is ordered by task, against a map.
func TestChangesAddUp(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	want := map[string]Endpoint{}
	var got Network
	for revision := uint64(1); revision < 500; revision++ {
		c := NetworkChange{Network: Network{ID: "n", Revision: revision}, From: revision - 1}
		touched := map[string]bool{}
		for range rng.IntN(5) {
			id := fmt.Sprint("t", rng.IntN(30))
			if touched[id] {
				continue
			}
			touched[id] = true
			if rng.IntN(3) == 0 {
				delete(want, id)
				c.EndpointsGone = append(c.EndpointsGone, id)
				continue
			}
			want[id] = Endpoint{TaskID: id, Slot: rng.IntN(1000)}
			c.Endpoints = append(c.Endpoints, want[id])
		}
		before := slices.Clone(got.Endpoints)
		next, ok := c.On(got)
		if !ok || next.Revision != revision {
			t.Fatalf("change %d was refused", revision)
		}
		if !slices.EqualFunc(before, got.Endpoints, func(a, b Endpoint) bool { return reflect.DeepEqual(a, b) }) {
			t.Fatal("the former list was modified")
		}
		got = next
		var list []Endpoint
		for _, id := range slices.Sorted(maps.Keys(want)) {
			list = append(list, want[id])
		}
		if len(list)+len(got.Endpoints) > 0 && !reflect.DeepEqual(got.Endpoints, list) {
			t.Fatalf("after %+v: %v, want %v", c, got.Endpoints, list)
		}
	}
}

func TestAMissedChangeIsNoticed(t *testing.T) {
	old := Network{ID: "n", Revision: 5, Endpoints: []Endpoint{{TaskID: "a"}}}
	for _, c := range []NetworkChange{
		{Network: Network{ID: "n", Revision: 9}, From: 7},
		{Network: Network{ID: "n", Revision: 9}, From: 4},
		{Network: Network{ID: "other", Revision: 9}, From: 5},
	} {
		if got, ok := c.On(old); ok || !reflect.DeepEqual(got, old) {
			t.Errorf("%+v was taken for a change to revision 5: %+v", c, got)
		}
	}
	whole := NetworkChange{Network: Network{ID: "n", Revision: 9, Endpoints: []Endpoint{{TaskID: "b"}}}}
	if got, ok := whole.On(old); !ok || len(got.Endpoints) != 1 || got.Endpoints[0].TaskID != "b" {
		t.Errorf("snapshot gave %+v", got)
	}
}
