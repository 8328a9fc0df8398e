package meshd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
)

// With autolock on, a manager's data key is wrapped by the swarm's unlock key, which
// is in the replicated state alone: a manager that starts can read neither its log
// nor its private key before somebody gives it the unlock key.

var errLockedLeave = remote.Errorf(errdefs.ErrUnavailable,
	"Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.")

// newVault makes the data key of a new manager, and has it encrypt the private key.
func (d *Daemon) newVault(k *certs.Keeper) (*certs.Vault, error) {
	v, err := certs.OpenVault(d.cfg.raftDir(), nil, true)
	if err != nil {
		return nil, err
	}
	return v, k.Keep(v)
}

// Unlock implements api.Node.
func (d *Daemon) Unlock(_ context.Context, text string) error {
	if !d.op.TryLock() {
		return errBusy
	}
	defer d.op.Unlock()
	if d.Status().State != swarm.LocalNodeStateLocked {
		return remote.Errorf(errdefs.ErrConflict, "swarm is not locked")
	}
	key, err := certs.ParseUnlockKey(text)
	if err != nil || key == nil {
		return errUnlockKey
	}
	err = d.resume(key)
	if errors.Is(err, certs.ErrUnlockKey) {
		return errUnlockKey
	}
	d.mu.Lock()
	d.failure = err
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("the key is right, but this node cannot take up its place in the swarm: %w", err)
	}
	d.log.Info("this manager was unlocked")
	return nil
}

// errUnlockKey has Docker's text.
var errUnlockKey = remote.Errorf(errdefs.ErrInvalidArgument, "swarm could not be unlocked: invalid key provided")

// keepLock keeps the vault locked with the key that the replicated state has.
func (n *node) keepLock(ctx context.Context) error {
	for ctx.Err() == nil {
		n.followLock(ctx)
	}
	return nil
}

// followLock returns when ctx ends, or when the store's changes have to be read anew.
func (n *node) followLock(ctx context.Context) {
	var now *store.Cluster
	w := n.manager.store.Watch(func(v *store.View) { now = v.Cluster() })
	defer w.Close()
	n.lock(now)
	for {
		select {
		case <-ctx.Done():
			return
		case c, ok := <-w.C:
			if !ok {
				return
			}
			for _, e := range c.Events {
				if cluster, is := e.New.(*store.Cluster); is {
					n.lock(cluster)
				}
			}
		}
	}
}

func (n *node) lock(c *store.Cluster) {
	if c == nil {
		return
	}
	key, err := certs.ParseUnlockKey(c.UnlockKey)
	if err == nil {
		err = n.vault.Lock(key)
	}
	if err != nil {
		n.d.log.Error("this manager's data is not locked as the swarm asks for", "error", err)
	}
}
