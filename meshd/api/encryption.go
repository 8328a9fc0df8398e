package api

import (
	"net/http"
	"time"

	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/store"
)

// leastKeyLife leaves time for a change of keys to end before the next.
const leastKeyLife = time.Minute

// rotateKeys has all nodes change their WireGuard keys now; with the query parameter
// "every" it sets instead how long keys last.
func (s *Server) rotateKeys(w http.ResponseWriter, r *http.Request, c Control) error {
	var life time.Duration
	if every := r.URL.Query().Get("every"); every != "" {
		var err error
		if life, err = time.ParseDuration(every); err != nil || life < leastKeyLife {
			return invalid("every %q: want a duration of %v or longer, e.g. 12h", every, leastKeyLife)
		}
	}
	err := store.Transact(r.Context(), c.Store(), c, func(tx *store.Tx) error {
		old := tx.Cluster()
		if old == nil {
			return store.ErrSequence
		}
		next := *old
		if life != 0 {
			next.KeyLife = life
		} else if err := admission.RotateKeys(&next, tx.Nodes(), time.Now()); err != nil {
			return err
		}
		tx.Update(&next)
		return nil
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
