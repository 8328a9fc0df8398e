package consensus

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/hashicorp/raft"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/remote"
)

// A new manager is a learner first: it gets the log and has no vote. A voter that has
// everything yet to fetch would count for the quorum and could not help it: of two
// managers and a third that is slow to catch up, either one's loss would stop writes.

const (
	// learnerLag is how many entries a learner may be behind when it gets its vote; a
	// busy leader appends so many while it asks (raft-autopilot's MaxTrailingLogs).
	learnerLag = 250
	// learnerPatience is how long AddVoter waits for that; after it the manager stays a
	// learner, and AddVoter may be called again.
	learnerPatience = 5 * time.Second
)

type progressReply struct{ LastIndex uint64 }

// registerProgress lets leaders ask how far this manager's log is.
func (n *Node) registerProgress() {
	n.cfg.Server.Handle(pathProgress, func(w http.ResponseWriter, _ *http.Request) {
		remote.Reply(w, progressReply{n.raft.LastIndex()})
	}, certs.RoleManager)
}

// learn adds a manager as learner, unless it is one, and gives it a vote when it has
// caught up, if that is soon.
func (n *Node) learn(ctx context.Context, id, addr string) error {
	if m, _ := n.member(id); m.Addr != addr {
		if err := n.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), 0, changeTimeout).Error(); err != nil {
			return classify(err)
		}
	}
	patience, cancel := context.WithTimeout(ctx, learnerPatience)
	defer cancel()
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		if n.caughtUp(patience, addr) {
			return classify(n.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(addr), 0, changeTimeout).Error())
		}
		select {
		case <-time.After(pause):
		case <-n.stop:
			return errStopped()
		case <-patience.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			n.cfg.Logger.Info("a new manager has no vote yet: it has not caught up", "node", id)
			return nil
		}
	}
}

func (n *Node) caughtUp(ctx context.Context, addr string) bool {
	commit := n.raft.CommitIndex()
	var p progressReply
	err := n.cfg.Client.Call(ctx, addr, pathProgress, nil, &p)
	return err == nil && p.LastIndex+learnerLag >= commit
}
