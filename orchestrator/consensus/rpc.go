package consensus

import (
	"context"
	"net/http"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/orchestrator/remote"
)

// The calls between managers; but for pathProgress only a leader does what they ask.
const (
	pathPropose   = "/v1/propose"
	pathBarrier   = "/v1/barrier"
	pathAdd       = "/v1/member/add"
	pathRemove    = "/v1/member/remove"
	pathTransfer  = "/v1/member/transfer"
	pathWithout   = "/v1/member/without"
	pathProgress  = "/v1/member/progress"
	pathReachable = "/v1/member/reachable"
)

type proposeRequest struct{ Entry []byte }

type barrierReply struct{ Index uint64 }

type memberRequest struct {
	ID   string
	Addr string `json:",omitempty"`
}

type reachableReply struct{ Members map[string]bool }

func (n *Node) register() {
	n.registerProgress()
	n.handle(pathPropose, func(ctx context.Context, r *http.Request) (any, error) {
		var in proposeRequest
		if err := remote.Read(r, &in); err != nil {
			return nil, err
		}
		// What every replica would halt on must not get into the log.
		if _, _, err := decodeEntry(in.Entry); err != nil {
			return nil, err
		}
		return n.apply(ctx, in.Entry)
	})
	n.handle(pathBarrier, func(ctx context.Context, _ *http.Request) (any, error) {
		index, err := n.readIndex(ctx)
		return barrierReply{index}, err
	})
	n.handleMember(pathAdd, func(ctx context.Context, m memberRequest) (any, error) {
		return nil, n.addVoter(ctx, m.ID, m.Addr)
	})
	n.handleMember(pathRemove, func(_ context.Context, m memberRequest) (any, error) {
		return nil, n.remove(m.ID)
	})
	n.handleMember(pathTransfer, func(context.Context, memberRequest) (any, error) {
		return nil, n.transfer()
	})
	n.handleMember(pathWithout, func(ctx context.Context, m memberRequest) (any, error) {
		return n.without(ctx, m.ID), nil
	})
	n.handleMember(pathReachable, func(context.Context, memberRequest) (any, error) {
		return reachableReply{n.reachable()}, nil
	})
}

func (n *Node) handle(path string, fn func(context.Context, *http.Request) (any, error)) {
	n.cfg.Server.Handle(path, func(w http.ResponseWriter, r *http.Request) {
		if !n.IsLeader() {
			remote.Fail(w, errNotLeader())
			return
		}
		out, err := fn(r.Context(), r)
		if err != nil {
			remote.Fail(w, err)
			return
		}
		remote.Reply(w, out)
	}, certs.RoleManager)
}

func (n *Node) handleMember(path string, fn func(context.Context, memberRequest) (any, error)) {
	n.handle(path, func(ctx context.Context, r *http.Request) (any, error) {
		var m memberRequest
		if err := remote.Read(r, &m); err != nil {
			return nil, err
		}
		return fn(ctx, m)
	})
}
