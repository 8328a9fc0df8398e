package store

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// A batch travels as CBOR (RFC 8949), objects as maps of their fields: what a later
// version adds, an earlier one ignores. Updates carry only what they change. Logs of
// earlier versions have batches in JSON, which begin with a brace.

var (
	encoding = must(cbor.EncOptions{Time: cbor.TimeRFC3339Nano, TextMarshaler: cbor.TextMarshalerTextString}.EncMode())
	decoding = must(cbor.DecOptions{TextUnmarshaler: cbor.TextUnmarshalerTextString, MaxArrayElements: 1 << 20, MaxMapPairs: 1 << 20}.DecMode())
)

// must is for options, which are right or wrong at compile time already.
func must[T any](mode T, err error) T {
	if err != nil {
		panic(err)
	}
	return mode
}

// actionPatch is an Update of which the body is a patch.
const actionPatch Action = "patch"

type wireBatch struct {
	_       struct{} `cbor:",toarray"`
	Time    time.Time
	Changes []wireChange
}

type wireChange struct {
	_      struct{} `cbor:",toarray"`
	Action Action
	Kind   Kind
	Key    string
	Base   uint64
	Body   cbor.RawMessage
}

// Encode writes the batch for the raft log.
func (b Batch) Encode() ([]byte, error) {
	w := wireBatch{Time: b.Time, Changes: make([]wireChange, len(b.Changes))}
	for i, c := range b.Changes {
		body, action, err := c.encode()
		if err != nil {
			return nil, fmt.Errorf("store: encode %s %s: %w", c.Kind, c.Key, err)
		}
		w.Changes[i] = wireChange{Action: action, Kind: c.Kind, Key: c.Key, Base: c.Base, Body: body}
	}
	return encoding.Marshal(w)
}

func (c Change) encode() (body []byte, as Action, err error) {
	switch {
	case c.Object == nil:
		body, err = encoding.Marshal(nil)
	case c.Action == Update && c.old != nil && Version(c.old) == c.Base:
		as = actionPatch
		body, err = diff(c.old, c.Object).encode()
		return body, as, err
	default:
		body, err = encoding.Marshal(c.Object)
	}
	return body, c.Action, err
}

// DecodeBatch reads what Encode wrote, in this version or an earlier one.
func DecodeBatch(data []byte) (Batch, error) {
	if len(data) > 0 && data[0] == '{' {
		return decodeJSONBatch(data)
	}
	var w wireBatch
	if err := decoding.Unmarshal(data, &w); err != nil {
		return Batch{}, fmt.Errorf("store: decode batch: %w", err)
	}
	b := Batch{Time: w.Time, Changes: make([]Change, len(w.Changes))}
	for i, c := range w.Changes {
		var err error
		if b.Changes[i], err = c.decode(); err != nil {
			return Batch{}, err
		}
	}
	return b, nil
}

func (c wireChange) decode() (Change, error) {
	out := Change{Action: c.Action, Kind: c.Kind, Key: c.Key, Base: c.Base}
	var err error
	switch c.Action {
	case Remove:
		return out, nil
	case actionPatch:
		out.Action = Update
		out.patch, err = decodePatch(c.Kind, c.Body)
		return out, err
	}
	if out.Object, err = newObject(c.Kind); err != nil {
		return out, err
	}
	if err := decoding.Unmarshal(c.Body, out.Object); err != nil {
		return out, fmt.Errorf("store: decode %s: %w", c.Kind, err)
	}
	return out, out.checkKey()
}

// checkKey finds a change with the body of another object.
func (c Change) checkKey() error {
	if c.Object.Key() != c.Key {
		return fmt.Errorf("store: decode batch: %s %s carries the body of %s", c.Kind, c.Key, c.Object.Key())
	}
	return nil
}

// decodeJSONBatch reads what earlier versions wrote.
func decodeJSONBatch(data []byte) (Batch, error) {
	var w struct {
		Time    time.Time
		Changes []struct {
			Change
			Body json.RawMessage
		}
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return Batch{}, fmt.Errorf("store: decode batch: %w", err)
	}
	b := Batch{Time: w.Time, Changes: make([]Change, len(w.Changes))}
	for i, c := range w.Changes {
		b.Changes[i] = c.Change
		if c.Action == Remove {
			continue
		}
		var err error
		if b.Changes[i].Object, err = decodeObject(c.Kind, c.Body); err == nil {
			err = b.Changes[i].checkKey()
		}
		if err != nil {
			return Batch{}, err
		}
	}
	return b, nil
}
