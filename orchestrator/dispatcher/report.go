package dispatcher

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/protocol"
	"github.com/meshd/meshd/orchestrator/remote"
	"github.com/meshd/meshd/orchestrator/store"
	"github.com/meshd/meshd/orchestrator/tasklife"
)

const (
	// maxReports bounds how many requests go into one batch.
	maxReports = 256
	// proposeTimeout bounds the wait for a quorum; the node retries.
	proposeTimeout = 10 * time.Second
)

// report is what one request of a node wants stored.
type report struct {
	node        string
	updates     []protocol.StatusUpdate
	description *protocol.SessionRequest
	done        chan error
}

// handleStatus stores task states; it answers when they are committed.
func (d *Dispatcher) handleStatus(w http.ResponseWriter, r *http.Request) {
	var req protocol.StatusReport
	if err := remote.Read(r, &req); err != nil {
		remote.Fail(w, err)
		return
	}
	node := remote.Peer(r.Context()).NodeID
	d.beat(node)
	if err := d.checkOwner(node, req); err != nil {
		remote.Fail(w, err)
		return
	}
	if err := d.submit(r.Context(), report{node: node, updates: req.Updates}); err != nil {
		remote.Fail(w, err)
		return
	}
	remote.Reply(w, struct{}{})
}

// checkOwner refuses reports about other nodes' tasks. Unknown tasks pass: they
// may have been removed meanwhile, and are ignored later.
func (d *Dispatcher) checkOwner(node string, req protocol.StatusReport) error {
	var err error
	d.cfg.Store.View(func(v *store.View) {
		for _, u := range req.Updates {
			if t := v.Task(u.TaskID); t != nil && t.NodeID != node {
				err = remote.Errorf(errdefs.ErrPermissionDenied, "task %s does not run on node %s", u.TaskID, node)
				return
			}
		}
	})
	return err
}

// submit hands a report to the recorder and waits until it is stored.
func (d *Dispatcher) submit(ctx context.Context, r report) error {
	r.done = make(chan error, 1)
	select {
	case d.reports <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// record stores reports, at most one batch per Coalesce; while one batch is
// under way the next gathers.
func (d *Dispatcher) record(ctx context.Context) error {
	defer d.refuseReports()
	for {
		var batch []report
		select {
		case <-ctx.Done():
			return nil
		case r := <-d.reports:
			batch = append(batch, r)
		}
		for more := true; more && len(batch) < maxReports; {
			select {
			case r := <-d.reports:
				batch = append(batch, r)
			default:
				more = false
			}
		}
		err := d.store(ctx, batch)
		for _, r := range batch {
			r.done <- err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(d.cfg.Coalesce):
		}
	}
}

func (d *Dispatcher) refuseReports() {
	for {
		select {
		case r := <-d.reports:
			r.done <- errStopped
		default:
			return
		}
	}
}

func (d *Dispatcher) store(ctx context.Context, batch []report) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	return store.Transact(ctx, d.cfg.Store, d.cfg.Proposer, func(tx *store.Tx) error {
		collect(tx, batch, d.cfg.Clock())
		return nil
	})
}

// collect merges the reports into one change per object.
func collect(tx *store.Tx, batch []report, now time.Time) {
	status := map[string]swarm.TaskStatus{}
	var order []string
	nodes := map[string]*protocol.SessionRequest{}
	for _, r := range batch {
		if r.description != nil {
			nodes[r.node] = r.description
		}
		for _, u := range r.updates {
			t := tx.Task(u.TaskID)
			if t == nil || t.NodeID != r.node {
				continue
			}
			old, seen := status[t.ID]
			if !seen {
				old = t.Status
			}
			if u.Status = unwanted(t, u.Status); !advances(old, u.Status) {
				continue
			}
			if !seen {
				order = append(order, t.ID)
			}
			if u.Status.Timestamp.IsZero() {
				u.Status.Timestamp = now.UTC()
			}
			status[t.ID] = u.Status
		}
	}
	for _, id := range order {
		t := *tx.Task(id)
		t.Status = status[id]
		tx.Update(&t)
	}
	for id, req := range nodes {
		if n := tx.Node(id); n != nil {
			if next := described(n, req); next != nil {
				tx.Update(next)
			}
		}
	}
}

// unwanted makes a failure of a task that was to end anyway its orderly end: a node that
// comes back from a power cut finds exits that say nothing of its service, nor of it.
func unwanted(t *store.Task, s swarm.TaskStatus) swarm.TaskStatus {
	if !tasklife.Wanted(t) && (s.State == swarm.TaskStateFailed || s.State == swarm.TaskStateRejected) {
		s.State = swarm.TaskStateShutdown
	}
	return s
}

// What the status of a node says while its machine shuts down, and afterwards.
const (
	stoppingMessage = "the machine is shutting down"
	stoppedMessage  = "the machine was shut down"
)

// stopped returns a node that has said that it shuts down as it is without a session;
// nil if it is so, or never said so.
func stopped(n *store.Node) *store.Node {
	if n == nil || !n.Stopping || n.Status.State == swarm.NodeStateDown {
		return nil
	}
	next := *n
	next.Status.State, next.Status.Message = swarm.NodeStateDown, stoppedMessage
	return &next
}

// described returns the node as it describes itself, nil if it did not change.
func described(n *store.Node, req *protocol.SessionRequest) *store.Node {
	next := *n
	next.Description = req.Description
	next.Description.TLSInfo = n.Description.TLSInfo // told by itself, see admission.TellTrust
	if req.DataAddr.IsValid() {
		next.DataAddr = req.DataAddr
		next.Status.Addr = req.DataAddr.String()
	}
	next.Direct, next.Keys, next.Stopping = req.Direct, storedKeys(req.Keys), req.Stopping
	if req.Stopping {
		next.Status.State, next.Status.Message = swarm.NodeStateDisconnected, stoppingMessage
	}
	if reflect.DeepEqual(&next, n) {
		return nil
	}
	return &next
}
