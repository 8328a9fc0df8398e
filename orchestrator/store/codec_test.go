package store

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var kinds = []Kind{KindCluster, KindNode, KindService, KindSpec, KindTask, KindNetwork, KindSecret, KindConfig}

// fill gives a value to everything that v has, so that no field can be lost unnoticed.
func fill(t *testing.T, rng *rand.Rand, v reflect.Value) {
	t.Helper()
	switch v.Type() {
	case reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(rng.Int64N(1<<32), rng.Int64N(1e9)).UTC()))
		return
	case reflect.TypeFor[netip.Addr]():
		v.Set(reflect.ValueOf(addr(rng)))
		return
	case reflect.TypeFor[netip.Prefix]():
		v.Set(reflect.ValueOf(netip.PrefixFrom(addr(rng), rng.IntN(33))))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("s", rng.Uint32()))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1 + rng.Int64N(100))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1 + rng.Uint64N(100))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(float64(rng.IntN(100)) / 4)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, rng, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(t, rng, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, rng, k)
		fill(t, rng, e)
		v.SetMapIndex(k, e)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("json") != "-" {
				fill(t, rng, v.Field(i))
			}
		}
	default:
		t.Fatalf("no value for a %s", v.Type())
	}
}

func addr(rng *rand.Rand) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(rng.IntN(256)), byte(rng.IntN(256)), byte(rng.IntN(256))})
}

func filled(t *testing.T, rng *rand.Rand, k Kind) Object {
	t.Helper()
	o, err := newObject(k)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, rng, reflect.ValueOf(o).Elem())
	return o
}

func random(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func throughTheLog(t *testing.T, b Batch) Batch {
	t.Helper()
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := DecodeBatch(data)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestObjectsTravelWhole(t *testing.T) {
	rng := random(t)
	for _, k := range kinds {
		o := filled(t, rng, k)
		in := Batch{Time: time.Now().UTC(), Changes: []Change{
			{Action: Create, Kind: k, Key: o.Key(), Object: o},
			{Action: Remove, Kind: k, Key: o.Key(), Base: 7},
		}}
		out := throughTheLog(t, in)
		same(t, string(k), out.Changes[0].Object, o)
		if got := out.Changes[1]; got.Action != Remove || got.Base != 7 || got.Object != nil || !out.Time.Equal(in.Time) {
			t.Errorf("%s: %+v at %s", k, got, out.Time)
		}
	}
}

// An update through the log makes of the old object what the new one is, whatever
// changed: values, nothing, or all to zero.
func TestUpdatesTravelAsWhatTheyChange(t *testing.T) {
	rng := random(t)
	for _, k := range kinds {
		old, other := filled(t, rng, k), filled(t, rng, k)
		layout := layoutOf(reflect.TypeOf(old).Elem())
		for range 200 {
			next := old.clone()
			v, from := reflect.ValueOf(next).Elem(), reflect.ValueOf(other).Elem()
			for _, f := range layout.fields {
				switch {
				case f.name == "ID": // the key of most
				case rng.IntN(4) == 0:
					v.FieldByIndex(f.index).Set(from.FieldByIndex(f.index))
				case rng.IntN(8) == 0:
					v.FieldByIndex(f.index).SetZero()
				}
			}
			out := throughTheLog(t, Batch{Changes: []Change{
				{Action: Update, Kind: k, Key: old.Key(), Base: Version(old), Object: next, old: old},
			}})
			if out.Changes[0].patch == nil {
				t.Fatalf("%s: an update travels whole", k)
			}
			same(t, string(k), out.Changes[0].result(old), next)
		}
	}
}

func TestUpdateOfAnotherVersionTravelsWhole(t *testing.T) {
	old := filled(t, random(t), KindTask)
	next := old.clone()
	next.meta().Version.Index++
	out := throughTheLog(t, Batch{Changes: []Change{
		{Action: Update, Kind: KindTask, Key: next.Key(), Base: Version(next), Object: next, old: old},
	}})
	if out.Changes[0].Object == nil {
		t.Error("an update was compared with what it is not made of")
	}
}

// Logs on disk may have been written by an earlier version.
func TestFormerFormat(t *testing.T) {
	o := filled(t, random(t), KindTask).(*Task)
	body, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	data := fmt.Sprintf(`{"Time":"2026-01-02T03:04:05Z","Changes":[{"Action":"update","Kind":"task","Key":%q,"Base":4,"Body":%s}]}`, o.ID, body)
	b, err := DecodeBatch([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	if c := b.Changes[0]; c.Action != Update || c.Base != 4 || b.Time.Year() != 2026 {
		t.Errorf("got %+v at %s", c, b.Time)
	}
	same(t, "task", b.Changes[0].Object, Object(o))
	if _, err := DecodeBatch([]byte(strings.Replace(data, o.ID, "other", 1))); err == nil {
		t.Error("a change of one task with another's body was read")
	}
}

func TestGarbageIsNoBatch(t *testing.T) {
	o := filled(t, random(t), KindNode)
	good, err := Batch{Changes: []Change{{Action: Create, Kind: KindNode, Key: o.Key(), Object: o}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := DecodeBatch(good[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes were read", n, len(good))
		}
	}
	wrong, err := Batch{Changes: []Change{{Action: Create, Kind: KindNode, Key: "other", Object: o}}}.Encode()
	if err == nil {
		_, err = DecodeBatch(wrong)
	}
	if err == nil {
		t.Error("a change of one node with another's body was read")
	}
}
