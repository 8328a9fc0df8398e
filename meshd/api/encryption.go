package api

import (
	"maps"
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

// encryptUnasked makes a new network an encrypted one where the swarm says that all
// are, unless its maker says that it is not.
func encryptUnasked(c *store.Cluster, n *store.Network) {
	if c == nil || !c.EncryptsAll() {
		return
	}
	driver := *n.Spec.DriverConfiguration
	options := map[string]string{store.OptionEncrypted: ""}
	maps.Copy(options, driver.Options) // what its maker says goes before
	driver.Options = options
	n.Spec.DriverConfiguration = &driver
}

// validateEncrypt checks the label of a swarm that says which networks are encrypted.
func validateEncrypt(labels map[string]string) error {
	switch v := labels[store.LabelEncrypt]; v {
	case "", store.EncryptAll, store.EncryptOptIn:
		return nil
	default:
		return invalid("label %s=%s: must be %s or %s", store.LabelEncrypt, v, store.EncryptAll, store.EncryptOptIn)
	}
}
