package api

import (
	"net/http"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/scheduler"
	"github.com/meshd/meshd/orchestrator/store"
)

// Explanation says how a task stands, and of each node why it could not take it.
type Explanation struct {
	ID           string
	Name         string
	NodeID       string `json:",omitempty"`
	DesiredState swarm.TaskState
	Status       swarm.TaskStatus
	Nodes        []scheduler.Verdict
}

func (s *Server) taskExplain(w http.ResponseWriter, r *http.Request, c Control) error {
	var out Explanation
	err := look(c.Store(), func(v *store.View) error {
		t, err := findTask(v, r.PathValue("id"))
		if err != nil {
			return err
		}
		out = Explanation{
			ID: t.ID, Name: taskName(v, t), NodeID: t.NodeID, DesiredState: t.DesiredState, Status: t.Status,
			Nodes: scheduler.Explain(v, t),
		}
		return nil
	})
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}
