package store

import (
	"fmt"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"
	"github.com/moby/moby/api/types/swarm"
)

// patch is what an update changes of an object: a task goes through five states, and
// each is a small part of it. It applies to the version that it was made against
// only, which is what batches are checked for. What it leaves alone, old and new
// object share.
type patch struct{ fields []field }

// field is a new value for the one of this name.
type field struct {
	name  string
	value reflect.Value
}

// diff finds the fields in which two objects of one kind differ. The fields of
// embedded structs count one by one; swarm.Meta is the store's own.
func diff(old, next Object) patch {
	var p patch
	a, b := reflect.ValueOf(old).Elem(), reflect.ValueOf(next).Elem()
	for _, at := range layoutOf(a.Type()).fields {
		was, is := a.FieldByIndex(at.index), b.FieldByIndex(at.index)
		if !untouched(was, is) && !reflect.DeepEqual(was.Interface(), is.Interface()) {
			p.fields = append(p.fields, field{at.name, is})
		}
	}
	return p
}

// untouched says that a value is the other, or a copy that shares all it refers to, as
// most of an updated object does. If not they may be equal still, which costs more to say.
func untouched(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			if !untouched(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		return a.Len() == b.Len() && a.UnsafePointer() == b.UnsafePointer()
	case reflect.Map, reflect.Pointer:
		return a.UnsafePointer() == b.UnsafePointer()
	case reflect.Interface, reflect.Array:
		return false
	default:
		return a.Equal(b)
	}
}

// on is the object after the change.
func (p patch) on(old Object) Object {
	next := old.clone()
	v := reflect.ValueOf(next).Elem()
	layout := layoutOf(v.Type())
	for _, f := range p.fields {
		v.FieldByIndex(layout.byName[f.name]).Set(f.value)
	}
	return next
}

func (p patch) encode() ([]byte, error) {
	values := make(map[string]any, len(p.fields))
	for _, f := range p.fields {
		values[f.name] = f.value.Interface()
	}
	return encoding.Marshal(values)
}

func decodePatch(k Kind, data []byte) (*patch, error) {
	o, err := newObject(k)
	if err != nil {
		return nil, err
	}
	var values map[string]cbor.RawMessage
	if err := decoding.Unmarshal(data, &values); err != nil {
		return nil, fmt.Errorf("store: decode a change of a %s: %w", k, err)
	}
	t := reflect.TypeOf(o).Elem()
	layout := layoutOf(t)
	p := &patch{}
	for name, raw := range values {
		index, known := layout.byName[name]
		if !known {
			continue // of a later version, as with whole objects
		}
		value := reflect.New(t.FieldByIndex(index).Type)
		if err := decoding.Unmarshal(raw, value.Interface()); err != nil {
			return nil, fmt.Errorf("store: decode %s of a %s: %w", name, k, err)
		}
		p.fields = append(p.fields, field{name, value.Elem()})
	}
	return p, nil
}

// layout are the fields of a kind of objects.
type layout struct {
	fields []place
	byName map[string][]int
}

type place struct {
	name  string
	index []int
}

// layouts caches them by type; they never change.
var layouts sync.Map

func layoutOf(t reflect.Type) *layout {
	if l, ok := layouts.Load(t); ok {
		return l.(*layout)
	}
	l := &layout{byName: map[string][]int{}}
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous || !f.IsExported() || inMeta(t, f.Index) {
			continue
		}
		l.fields = append(l.fields, place{f.Name, f.Index})
		l.byName[f.Name] = f.Index
	}
	layouts.Store(t, l)
	return l
}

// inMeta says that a field is one of swarm.Meta's.
func inMeta(t reflect.Type, index []int) bool {
	return len(index) > 1 && t.FieldByIndex(index[:len(index)-1]).Type == reflect.TypeFor[swarm.Meta]()
}
