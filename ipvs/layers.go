package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Layers is a Balancer made of two, one before the other: Inside leads to VIPs inside containers, Node on the
// node what gets there: published ports, and VIPs of containers that Inside has not got to, or of what it does
// not lead. So a connection that began on the node goes on there when Inside comes, and a container that has
// just been made waits for nobody.
type Layers struct {
	Node, Inside interface {
		Balancer
		Holder
	}
	// Leads: Inside leads. Otherwise it takes away what it put there for a former process, and may be nil if
	// there is no Marker.
	Leads bool
	// Marker is a file that stands while containers may hold something of Inside's.
	Marker string
}

// parts divides a state. What is led inside containers is not led at their sockets.
func parts(s State) (inside, node State) {
	node = s
	node.Clients = nil
	inside.Clients = s.Clients
	for _, svc := range s.Services {
		if !svc.Published() {
			inside.Services = append(inside.Services, svc)
		}
	}
	return inside, node
}

// Set refuses what makes no sense as a whole, so that neither part changes.
func (b Layers) Set(s State) error {
	if _, err := Normalize(s); err != nil {
		return err
	}
	if !b.Leads {
		return errors.Join(b.Node.Set(s), b.clear(s.Clients))
	}
	if !b.Left() {
		if err := os.WriteFile(b.Marker, nil, 0o600); err != nil {
			return fmt.Errorf("note that containers hold services: %w", err)
		}
	}
	inside, node := parts(s)
	return errors.Join(b.Node.Set(node), b.Inside.Set(inside))
}

// clear takes away what a former process had Inside lead: what is led inside a container never gets to Node.
func (b Layers) clear(clients []Client) error {
	if !b.Left() {
		return nil
	}
	if err := b.Inside.Set(State{Clients: clients}); err != nil {
		return err
	}
	if err := os.Remove(b.Marker); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("note that containers hold no services any more: %w", err)
	}
	return nil
}

// Left tells whether containers may hold something of Inside's.
func (b Layers) Left() bool {
	_, err := os.Stat(b.Marker)
	return err == nil
}

// Close closes both.
func (b Layers) Close() error {
	if b.Inside == nil {
		return b.Node.Close()
	}
	return errors.Join(b.Inside.Close(), b.Node.Close())
}

// Held is what Node holds, and whom Inside leads.
func (b Layers) Held() (State, error) {
	out, err := b.Node.Held()
	if err != nil || !b.Leads {
		return out, err
	}
	inside, err := b.Inside.Held()
	out.Clients = inside.Clients
	return out, err
}

// Damage is that of both, as far as they look.
func (b Layers) Damage() ([]Difference, error) {
	looking := []any{b.Node}
	if b.Leads {
		looking = append(looking, b.Inside)
	}
	var out []Difference
	var errs []error
	for _, part := range looking {
		if i, ok := part.(Inspector); ok {
			found, err := i.Damage()
			out, errs = append(out, found...), append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// Suspects are those that Node sees.
func (b Layers) Suspects(ctx context.Context, report func(Suspect)) error {
	if w, ok := b.Node.(Witness); ok {
		return w.Suspects(ctx, report)
	}
	<-ctx.Done()
	return ctx.Err()
}
