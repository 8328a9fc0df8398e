package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// apiVersion is a version of the Engine API, such as 1.41.
type apiVersion struct{ major, minor int }

// The versions served. The types of the swarm side are those of 1.56. Engines are
// older as a rule: what newer clients expect in another form is translated up to
// apiMax (containerCreate, diskUsage).
var (
	apiMax = apiVersion{1, 52}
	apiMin = apiVersion{1, 24}
)

func (v apiVersion) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v apiVersion) less(o apiVersion) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

func parseVersion(s string) (apiVersion, bool) {
	major, minor, ok := strings.Cut(s, ".")
	if !ok {
		return apiVersion{}, false
	}
	a, errA := strconv.ParseUint(major, 10, 16)
	b, errB := strconv.ParseUint(minor, 10, 16)
	if errA != nil || errB != nil {
		return apiVersion{}, false
	}
	return apiVersion{int(a), int(b)}, true
}

// splitVersion cuts the prefix "/v1.41" off an escaped path.
func splitVersion(path string) (v apiVersion, rest string, ok bool) {
	after, found := strings.CutPrefix(path, "/v")
	if !found {
		return v, path, false
	}
	prefix, tail, _ := strings.Cut(after, "/")
	if v, ok = parseVersion(prefix); !ok {
		return v, path, false
	}
	return v, "/" + tail, true
}

type versionKey struct{}

// requestVersion is the version in the request's path; false if it had none.
func requestVersion(ctx context.Context) (apiVersion, bool) {
	v, ok := ctx.Value(versionKey{}).(apiVersion)
	return v, ok
}

type handler func(w http.ResponseWriter, r *http.Request) error

type route struct {
	method   string
	segments []string
	serve    handler
}

// at makes a route; a segment "*" of the pattern is the object's name or ID,
// which the handler gets as PathValue("id"). "**" is one of several segments, as
// the names of images have.
func at(method, pattern string, h handler) route {
	return route{method: method, segments: strings.Split(pattern, "/")[1:], serve: h}
}

func (rt route) match(r *http.Request, segments []string) bool {
	if rt.method != r.Method {
		return false
	}
	if i := slices.Index(rt.segments, "**"); i >= 0 && len(segments) >= len(rt.segments) {
		end := i + 1 + len(segments) - len(rt.segments)
		name := strings.Join(segments[i:end], "/")
		segments = slices.Concat(segments[:i], []string{"**"}, segments[end:])
		r.SetPathValue("id", name)
	}
	if len(rt.segments) != len(segments) {
		return false
	}
	for i, want := range rt.segments {
		if want != "*" && want != segments[i] || segments[i] == "" {
			return false
		}
		if want == "*" {
			r.SetPathValue("id", segments[i])
		}
	}
	return true
}

// owned are the parts of the API where the engine has no say: its own swarm
// mode must not be reached through us.
var owned = map[string]bool{"swarm": true, "nodes": true, "services": true, "tasks": true, "secrets": true, "configs": true}

func (s *Server) dispatch(w http.ResponseWriter, r *http.Request) error {
	v, rest, versioned := splitVersion(r.URL.EscapedPath())
	if versioned {
		low := s.engine.lowest()
		switch {
		case apiMax.less(v):
			return invalid("client version %s is too new. Maximum supported API version is %s", v, apiMax)
		case v.less(low):
			return invalid("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", v, low)
		}
		r = r.WithContext(context.WithValue(r.Context(), versionKey{}, v))
	}
	if !strings.HasPrefix(rest, "/") { // CONNECT, and URLs that end with the host
		return refuse(http.StatusNotFound, "page not found")
	}
	plain, err := url.PathUnescape(rest)
	if err != nil {
		return invalid("bad path: %v", err)
	}
	u := *r.URL
	u.Path, u.RawPath = plain, rest
	r.URL = &u
	segments := strings.Split(rest, "/")[1:]
	for i := range segments {
		if segments[i], err = url.PathUnescape(segments[i]); err != nil {
			return invalid("bad path: %v", err)
		}
	}
	if _, _, ok := cutNode(rest); ok && !versioned {
		return s.streaming(s.forwardToNode)(w, r)
	}
	for _, rt := range s.routes {
		if rt.match(r, segments) {
			return rt.serve(w, r)
		}
	}
	if owned[segments[0]] {
		return refuse(http.StatusNotFound, "page not found")
	}
	return s.engine.forward(w, r)
}

func (s *Server) routeTable() []route {
	get, head, post, del := http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete
	m := s.onManager
	table := []route{
		at(get, "/_ping", s.ping), at(head, "/_ping", s.ping),
		at(get, "/version", s.getVersion), at(get, "/info", s.info), at(get, "/events", s.events),

		at(get, "/swarm", m(s.swarmInspect)), at(post, "/swarm/init", s.swarmInit),
		at(post, "/swarm/join", s.swarmJoin), at(post, "/swarm/leave", s.swarmLeave),
		at(post, "/swarm/update", m(s.swarmUpdate)), at(get, "/swarm/unlockkey", m(s.swarmUnlockKey)),
		at(post, "/swarm/unlock", s.swarmUnlock),

		at(get, "/nodes", m(s.nodeList)), at(get, "/nodes/*", m(s.nodeInspect)),
		at(del, "/nodes/*", m(s.nodeRemove)), at(post, "/nodes/*/update", m(s.nodeUpdate)),

		at(get, "/services", m(s.serviceList)), at(post, "/services/create", m(s.serviceCreate)),
		at(get, "/services/*", m(s.serviceInspect)), at(del, "/services/*", m(s.serviceRemove)),
		at(post, "/services/*/update", m(s.serviceUpdate)), at(get, "/services/*/logs", s.streaming(s.serviceLogs)),

		at(get, "/tasks", m(s.taskList)), at(get, "/tasks/*", m(s.taskInspect)), at(get, "/tasks/*/logs", s.streaming(s.taskLogs)),

		at(post, "/containers/create", s.containerCreate),
		at(get, "/containers/json", s.containerList), at(get, "/containers/*/json", s.containerInspect),
		at(get, "/distribution/**/json", s.distribution), at(get, "/system/df", s.diskUsage),

		at(get, "/networks", s.networkList), at(post, "/networks/create", s.networkCreate),
		at(post, "/networks/prune", s.networkPrune),
		at(get, "/networks/*", s.networkInspect), at(del, "/networks/*", s.networkRemove),
		at(post, "/networks/*/connect", s.networkConnect), at(post, "/networks/*/disconnect", s.networkDisconnect),
	}
	for _, d := range []depot{secretDepot(), configDepot()} {
		base := "/" + d.kind + "s"
		table = append(table,
			at(get, base, m(d.list)), at(post, base+"/create", m(d.create)),
			at(get, base+"/*", m(d.inspect)), at(del, base+"/*", m(d.remove)), at(post, base+"/*/update", m(d.update)))
	}
	return table
}
