package api

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"github.com/meshd/meshd/orchestrator/store"
)

// A command in a task of another node: meshctl speaks Docker's exec API below
// nodesPrefix and the node's ID to a manager (forwardToNode), which passes it
// through its tunnel to that node (TaskEngine), which lets it through to its engine
// if it is about a task's container. What goes on in a node's network is asked in
// the same way, below /net/.
const nodesPrefix = "/mesh/nodes/"

// taskLabel is on the containers of tasks, with the task's ID.
const taskLabel = "mesh.task"

// EnginePath is where a node answers the managers, below its tunnel's root.
const EnginePath = "/engine"

// cutNode splits "/mesh/nodes/ID/v1.41/exec/..." behind the ID.
func cutNode(path string) (node, rest string, ok bool) {
	after, ok := strings.CutPrefix(path, nodesPrefix)
	node, rest, slash := strings.Cut(after, "/")
	return node, "/" + rest, ok && slash && node != ""
}

// forwardToNode passes a request to another node's engine. The stream of an
// upgraded connection goes through both ways.
func (s *Server) forwardToNode(w http.ResponseWriter, r *http.Request, c Control) error {
	ref, rest, _ := cutNode(r.URL.EscapedPath())
	var node *store.Node
	err := look(c.Store(), func(v *store.View) (err error) { node, err = findNode(v, ref); return err })
	if err != nil {
		return err
	}
	path := EnginePath + rest
	if after, ok := strings.CutPrefix(rest, "/net/"); ok {
		path = NetPath + after
	}
	target, err := url.Parse("http://" + node.ID + path)
	if err != nil {
		return invalid("bad path: %v", err)
	}
	target.RawQuery = r.URL.RawQuery
	proxy := httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { p.Out.URL, p.Out.Host = target, node.ID },
		Transport:     c.Nodes(),
		FlushInterval: -1,
		ModifyResponse: func(res *http.Response) error {
			for name := range w.Header() { // that node's, which are ours already
				res.Header.Del(name)
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			s.fail(w, r, refuse(http.StatusServiceUnavailable, "node %s: %v", node.Hostname(), err))
		},
	}
	proxy.ServeHTTP(w, r)
	return nil
}

// TaskEngine answers managers for this node's engine, in what concerns commands
// in containers of tasks. Nothing else of the engine can be reached through it.
func (s *Server) TaskEngine() http.Handler {
	return http.StripPrefix(EnginePath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.ofTask(r); err != nil {
			s.fail(w, r, err)
			return
		}
		s.ServeHTTP(w, r)
	}))
}

// ofTask refuses what is not about a command in a task's container.
func (s *Server) ofTask(r *http.Request) error {
	_, rest, _ := splitVersion(r.URL.EscapedPath())
	parts := strings.Split(rest, "/")[1:]
	if len(parts) != 3 {
		return refuse(http.StatusNotFound, "page not found")
	}
	container := parts[1]
	switch r.Method + " " + parts[0] + " " + parts[2] {
	case "GET containers json", "POST containers exec":
	case "GET exec json", "POST exec start", "POST exec resize":
		var exec struct{ ContainerID string }
		if err := s.engine.get(r.Context(), "/exec/"+parts[1]+"/json", &exec); err != nil {
			return err
		}
		container = exec.ContainerID
	default:
		return refuse(http.StatusForbidden, "managers may only run commands in tasks on other nodes, not %s %s", r.Method, rest)
	}
	var c struct {
		Config struct{ Labels map[string]string }
	}
	if err := s.engine.get(r.Context(), "/containers/"+container+"/json", &c); err != nil {
		return err
	}
	if c.Config.Labels[taskLabel] == "" {
		return refuse(http.StatusForbidden, "container %s is not a task of this swarm", container)
	}
	return nil
}
