package api

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"github.com/meshd/meshd/meshd/doctor"
	"github.com/meshd/meshd/orchestrator/store"
)

// ping answers for meshd itself, engine or not: a client that cannot ping
// gives up, and the swarm side works without the engine.
func (s *Server) ping(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Builder-Version", s.engine.builder(r.Context()))
	h.Set("Swarm", s.swarmHeader())
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return nil
	}
	h.Set("Content-Length", "2")
	_, _ = io.WriteString(w, "OK")
	return nil
}

func (s *Server) swarmHeader() string {
	st := s.node.Status()
	if st.State != swarm.LocalNodeStateActive {
		return string(cmp.Or(st.State, swarm.LocalNodeStateInactive))
	}
	if _, ok := s.node.Manager(); ok {
		return "active/manager"
	}
	return "active/worker"
}

// builder is the engine's word on which builder clients should use.
func (e *engine) builder(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://docker/_ping", nil)
	if err != nil {
		return "1"
	}
	res, err := e.transport.RoundTrip(req)
	if err != nil {
		return "1"
	}
	_ = res.Body.Close()
	return cmp.Or(res.Header.Get("Builder-Version"), "1")
}

// object is a JSON object of which only some fields concern us.
type object map[string]any

func (s *Server) getVersion(w http.ResponseWriter, r *http.Request) error {
	answer := object{}
	_, _, err := s.engine.versions(r.Context())
	if err == nil {
		err = s.engine.get(r.Context(), "/version", &answer)
	}
	if err != nil {
		// The swarm side works without the engine; so must what leads to it.
		answer = object{"Version": s.version, "Os": runtime.GOOS, "Arch": runtime.GOARCH, "GoVersion": runtime.Version()}
	}
	low := s.engine.lowest()
	answer["ApiVersion"], answer["MinAPIVersion"] = apiMax.String(), low.String()
	components, _ := answer["Components"].([]any)
	answer["Components"] = append(components, system.ComponentVersion{
		Name: "meshd", Version: s.version,
		Details: map[string]string{
			"ApiVersion": apiMax.String(), "MinAPIVersion": low.String(),
			"Os": runtime.GOOS, "Arch": runtime.GOARCH, "GoVersion": runtime.Version(),
		},
	})
	reply(w, http.StatusOK, answer)
	return nil
}

func (s *Server) info(w http.ResponseWriter, r *http.Request) error {
	answer := map[string]json.RawMessage{}
	if err := s.engine.get(r.Context(), "/info", &answer); err != nil {
		answer = s.infoAlone(err)
	}
	info := s.swarmInfo(r.Context())
	body, err := json.Marshal(info)
	if err != nil {
		return err
	}
	answer["Swarm"] = body
	if err := warn(answer, info.Warnings); err != nil {
		return err
	}
	reply(w, http.StatusOK, answer)
	return nil
}

// warn adds to the engine's warnings, which are those that clients print.
func warn(answer map[string]json.RawMessage, more []string) error {
	if len(more) == 0 {
		return nil
	}
	var all []string
	_ = json.Unmarshal(answer["Warnings"], &all) // none, or null
	for _, w := range more {
		all = append(all, "WARNING: "+w)
	}
	body, err := json.Marshal(all)
	answer["Warnings"] = body
	return err
}

// infoAlone is the least that clients need, when the engine does not answer.
func (s *Server) infoAlone(cause error) map[string]json.RawMessage {
	name, _ := os.Hostname()
	out := map[string]json.RawMessage{}
	for k, v := range map[string]any{
		"Name": name, "ServerVersion": s.version, "OSType": runtime.GOOS, "NCPU": runtime.NumCPU(),
		"Warnings": []string{"WARNING: " + cause.Error()},
	} {
		out[k], _ = json.Marshal(v) // plain values always encode
	}
	return out
}

// swarmInfo is the Swarm object of /info. It needs no quorum: it says what this
// node knows even when the managers cannot agree.
func (s *Server) swarmInfo(ctx context.Context) swarm.Info {
	st := s.node.Status()
	out := swarm.Info{
		NodeID: st.NodeID, NodeAddr: st.NodeAddr, Error: st.Error,
		LocalNodeState: cmp.Or(st.State, swarm.LocalNodeStateInactive),
		RemoteManagers: slices.Clone(st.Managers),
	}
	slices.SortStableFunc(out.RemoteManagers, func(a, b swarm.Peer) int {
		// The join address that the CLI prints is this node's own: it leads.
		if (a.NodeID == st.NodeID) != (b.NodeID == st.NodeID) {
			if a.NodeID == st.NodeID {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.NodeID, b.NodeID)
	})
	c, ok := s.node.Manager()
	if !ok {
		return out
	}
	out.ControlAvailable = true
	if err := barrier(ctx, c); err != nil && out.Error == "" {
		out.Error = faultOf(err).text
	}
	c.Store().View(func(v *store.View) {
		out.Nodes = len(v.Nodes())
		for _, n := range v.Nodes() {
			if n.Spec.Role == swarm.NodeRoleManager {
				out.Managers++
			}
		}
		if cl := v.Cluster(); cl != nil {
			info := clusterView(cl).ClusterInfo
			out.Cluster = &info
		}
	})
	if says, advice := doctor.Managers(out.Managers); says != "" {
		out.Warnings = append(out.Warnings, says+"; "+advice)
	}
	return out
}
