package meshd

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/meshd/meshd/orchestrator/admission"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// renewRetry is how long to wait when no manager could renew the certificate.
const renewRetry = 5 * time.Second

// trustWatch has what the managers say this node's certificate should be like; the
// newest wins.
type trustWatch chan protocol.Trust

func (w trustWatch) set(t protocol.Trust) {
	select {
	case <-w:
	default:
	}
	w <- t
}

// renew has the certificate renewed at half of its life, at once if it has expired,
// and when the managers want another root.
func (n *node) renew(ctx context.Context) error {
	var want *protocol.Trust
	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case t := <-n.trust:
			want = &t
		case <-time.After(wait):
		}
		wait = renewRetry
		err := n.certify(ctx, want)
		switch {
		case err == nil:
			wait = max(time.Until(n.keeper.RenewAt()), renewRetry)
		case ctx.Err() == nil:
			n.d.log.Warn("the node's certificate could not be renewed; trying again",
				"error", err, "expires", n.keeper.NotAfter(), "retry", renewRetry)
		}
	}
}

// certify renews the certificate if it has to be, and tells the managers what it is.
func (n *node) certify(ctx context.Context, want *protocol.Trust) error {
	_, issuer := n.keeper.Issuer()
	current := want == nil || bytes.Equal(issuer, want.Issuer) && bytes.Equal(n.keeper.RootPEM(), want.Root)
	if !current || !time.Now().Before(n.keeper.RenewAt()) {
		if err := n.renewOnce(ctx); err != nil {
			return err
		}
		n.d.log.Info("the node's certificate was renewed", "expires", n.keeper.NotAfter())
	}
	if want == nil {
		return nil // no manager was heard of yet
	}
	return n.anyManager(ctx, func(addr string) error { return admission.TellTrust(ctx, n.client, addr, n.keeper) })
}

func (n *node) renewOnce(ctx context.Context) error {
	if n.manager != nil && n.manager.desk.Renew(ctx, n.keeper) == nil {
		return nil
	}
	return n.anyManager(ctx, func(addr string) error { return admission.Renew(ctx, n.client, addr, n.keeper) })
}

// anyManager tries the managers in turn; the last error is returned.
func (n *node) anyManager(ctx context.Context, try func(addr string) error) error {
	err := errors.New("no manager is known")
	for _, p := range n.preferred(n.snapshot()) {
		if err = try(p.Addr); err == nil || ctx.Err() != nil {
			break
		}
	}
	return err
}
