package api

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/meshd/meshd/orchestrator/store"
)

// find resolves what a user calls an object: its ID, else its name, else the
// start of its ID if only one object's ID starts so.
func find[T store.Object](kind, ref string, all []T, name func(T) string) (found T, err error) {
	var named, begun []T
	for _, o := range all {
		if o.Key() == ref {
			return o, nil
		}
		if name(o) == ref {
			named = append(named, o)
		}
		if strings.HasPrefix(o.Key(), ref) {
			begun = append(begun, o)
		}
	}
	for _, hits := range [][]T{named, begun} {
		switch len(hits) {
		case 0:
		case 1:
			return hits[0], nil
		default:
			return found, invalid("%s %s is ambiguous (%d matches found)", kind, ref, len(hits))
		}
	}
	return found, notFound(kind, ref)
}

func findNode(v *store.View, ref string) (*store.Node, error) {
	if n := v.Node(ref); n != nil {
		return n, nil
	}
	return find("node", ref, v.Nodes(), (*store.Node).Hostname)
}

func findService(v *store.View, ref string) (*store.Service, error) {
	if s := v.Service(ref); s != nil {
		return s, nil
	}
	return find("service", ref, v.Services(), func(s *store.Service) string { return s.Spec.Name })
}

func findTask(v *store.View, ref string) (*store.Task, error) {
	if t := v.Task(ref); t != nil {
		return t, nil
	}
	return find("task", ref, v.Tasks(), func(t *store.Task) string { return taskName(v, t) })
}

func findNetwork(v *store.View, ref string) (*store.Network, error) {
	return find("network", ref, v.Networks(), func(n *store.Network) string { return n.Spec.Name })
}

// baseVersion reads the version that an update is based on.
func baseVersion(r *http.Request) (uint64, error) {
	raw := r.URL.Query().Get("version")
	n, err := strconv.ParseUint(raw, 10, 64)
	if err != nil {
		return 0, invalid("invalid object version '%s': a number is needed", raw)
	}
	return n, nil
}

// isSet reads a boolean query parameter as Docker does.
func isSet(r *http.Request, key string) bool {
	switch strings.ToLower(strings.TrimSpace(r.URL.Query().Get(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// flag reads a boolean query parameter that Docker is strict about.
func flag(r *http.Request, key string) (bool, error) {
	raw := r.URL.Query().Get(key)
	if raw == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(raw)
	if err != nil {
		return false, invalid("invalid value for %s: %s", key, raw)
	}
	return on, nil
}

// orEmpty makes an absent map show as {}, the form in which Docker stores it.
func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
