package meshd

import "context"

// ShutDown implements api.Node. Whoever shuts the machine down asks for it and waits;
// the daemon itself, which may also end for a restart or an upgrade, leaves tasks alone.
func (d *Daemon) ShutDown(ctx context.Context) error {
	d.mu.Lock()
	n := d.node
	d.mu.Unlock()
	if n == nil {
		return nil
	}
	a := n.agent.Load()
	if a == nil {
		return nil // it runs nothing yet
	}
	d.log.Info("the machine shuts down: its tasks go on elsewhere")
	if err := a.ShutDown(ctx, func(context.Context) { n.live.leave() }); err != nil {
		return err
	}
	n.live.leave()
	d.log.Info("no task runs any more")
	return nil
}
