package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// filters are the values asked for per key; a key's values are alternatives,
// except labels, which must all match.
type filters map[string][]string

// parseFilters reads the query parameter "filters" in either form that clients
// send: {"k":{"v":true}} (Go) or {"k":["v"]} (docker-py). Keys outside allowed
// are refused.
func parseFilters(r *http.Request, allowed ...string) (filters, error) {
	f, err := decodeFilters(r.URL.Query().Get("filters"))
	if err != nil {
		return nil, err
	}
	for k := range f {
		if !slices.Contains(allowed, k) {
			return nil, invalid("Invalid filter '%s'", k)
		}
	}
	return f, nil
}

func decodeFilters(raw string) (filters, error) {
	f := filters{}
	if raw == "" {
		return f, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(raw), &fields); err != nil {
		return nil, invalid("invalid filters: %v", err)
	}
	for k, body := range fields {
		var list []string
		if json.Unmarshal(body, &list) == nil {
			f[k] = list
			continue
		}
		var set map[string]bool
		if err := json.Unmarshal(body, &set); err != nil {
			return nil, invalid("invalid filter '%s': %v", k, err)
		}
		for v, on := range set {
			if on {
				f[k] = append(f[k], v)
			}
		}
		slices.Sort(f[k])
	}
	return f, nil
}

// prefix reports whether any of values starts with one of the key's values;
// true if the key is not asked for.
func (f filters) prefix(key string, values ...string) bool {
	if len(f[key]) == 0 {
		return true
	}
	for _, want := range f[key] {
		for _, v := range values {
			if strings.HasPrefix(v, want) {
				return true
			}
		}
	}
	return false
}

// exact reports whether value is one of the key's; true if it is not asked for.
func (f filters) exact(key, value string) bool {
	return len(f[key]) == 0 || slices.Contains(f[key], value)
}

// labels reports whether every "k" or "k=v" of the key is among the labels.
func (f filters) labels(key string, labels map[string]string) bool {
	for _, want := range f[key] {
		k, v, valued := strings.Cut(want, "=")
		have, ok := labels[k]
		if !ok || valued && have != v {
			return false
		}
	}
	return true
}

// oneOf refuses values of a key outside the given ones.
func (f filters) oneOf(key string, allowed ...string) error {
	for _, v := range f[key] {
		if !slices.Contains(allowed, v) {
			return invalid("Invalid %s filter: '%s'", key, v)
		}
	}
	return nil
}

// encode writes the filters in the form that every engine reads.
func (f filters) encode() string {
	out := map[string]map[string]bool{}
	for k, values := range f {
		out[k] = map[string]bool{}
		for _, v := range values {
			out[k][v] = true
		}
	}
	body, _ := json.Marshal(out) // maps of strings always encode
	return string(body)
}
