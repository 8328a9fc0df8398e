package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
)

const savedFile = "assignments.json"

// saveSpacing joins bursts of changes into one write.
const saveSpacing = 250 * time.Millisecond

// saved is the file of assignments. What managers say replaces it; until then
// it lets a new agent go on with the containers that an earlier one started.
type saved struct {
	Format int
	// Index is the newest raft index that this node was told of.
	Index       uint64
	Assignments []protocol.Assignment
}

// load reads the saved assignments; none if there is no file.
func load(dir string) (saved, error) {
	if dir == "" {
		return saved{}, nil
	}
	path := filepath.Join(dir, savedFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return saved{}, nil
	}
	if err != nil {
		return saved{}, fmt.Errorf("agent: read assignments: %w", err)
	}
	var s saved
	if err := json.Unmarshal(data, &s); err != nil || s.Format != 1 {
		return saved{}, fmt.Errorf("agent: %s is damaged or of another version (format %d): %w", path, s.Format, err)
	}
	return s, nil
}

// store writes the assignments whole or not at all. Credentials and secrets
// never touch the disk; which secrets there are is kept, so that a runner knows
// what is yet to come.
func store(dir string, index uint64, assignments []protocol.Assignment) error {
	out := saved{Format: 1, Index: index, Assignments: make([]protocol.Assignment, len(assignments))}
	for i, a := range assignments {
		a.RegistryAuth, a.Secrets = "", named(a.Secrets)
		out.Assignments[i] = a
	}
	data, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("agent: encode assignments: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, savedFile), data, 0o600); err != nil {
		return fmt.Errorf("agent: save assignments: %w", err)
	}
	return nil
}

// named are the secrets without their data.
func named(secrets []swarm.Secret) []swarm.Secret {
	var out []swarm.Secret
	for _, s := range secrets {
		s.Spec.Data = nil
		out = append(out, s)
	}
	return out
}

// save asks for a write soon.
func (a *Agent) save() { signal(a.saves) }

func (a *Agent) runSaver(ctx context.Context) error {
	if a.cfg.StateDir == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	for {
		select {
		case <-ctx.Done():
			a.write()
			return ctx.Err()
		case <-a.saves:
		}
		a.write()
		select {
		case <-ctx.Done():
		case <-time.After(saveSpacing):
		}
	}
}

func (a *Agent) write() {
	assignments, index := a.picture.assignments()
	a.mu.Lock()
	for i := range assignments {
		if w := a.workers[assignments[i].Task.ID]; w != nil {
			assignments[i].Task.Status = w.current()
		}
	}
	a.mu.Unlock()
	if err := store(a.cfg.StateDir, index, assignments); err != nil {
		a.log.Error("assignments not saved: a restart will wait for a manager", "error", err)
	}
}
