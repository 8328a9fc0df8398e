package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"

	"github.com/meshd/meshd/overlay"
)

// store keeps what the engine says only once, in a file that is replaced as a
// whole. Endpoints are in it from CreateEndpoint to DeleteEndpoint, since a
// restart may fall between CreateEndpoint and Join.
type store struct {
	path string

	mu    sync.Mutex
	saved saved
}

type saved struct {
	// Networks by the engine's network ID.
	Networks map[string]network
	// Endpoints by endpoint ID.
	Endpoints map[string]overlay.Attachment
}

func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &store{path: filepath.Join(dir, "engine-networks.json")}
	b, err := os.ReadFile(s.path)
	if err == nil {
		err = json.Unmarshal(b, &s.saved)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("networks of the engine in %s: %w", s.path, err)
	}
	if s.saved.Networks == nil {
		s.saved.Networks = map[string]network{}
	}
	if s.saved.Endpoints == nil {
		s.saved.Endpoints = map[string]overlay.Attachment{}
	}
	return s, nil
}

// change alters what is kept and saves it; an error means that neither holds
// beyond this process, and the engine is told that its call failed.
func (s *store) change(f func(*saved)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.saved)
	b, err := json.Marshal(s.saved)
	if err != nil {
		return err
	}
	return renameio.WriteFile(s.path, b, 0o600)
}

func (s *store) network(id string) (network, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.saved.Networks[id]
	return n, ok
}

func (s *store) endpoint(id string) (overlay.Attachment, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.saved.Endpoints[id]
	return a, ok
}
