package ipvs

import (
	"context"
	"errors"
	"slices"
)

// Split is a Balancer made of two: one leads VIPs, the other published ports.
type Split struct {
	VIPs, Published interface {
		Balancer
		Holder
	}
}

// parts divides a state. Only VIPs are led inside containers.
func parts(s State) (vips, published State) {
	published = s
	published.Clients, published.Services = nil, nil
	vips.Clients = s.Clients
	for _, svc := range s.Services {
		if svc.Published() {
			published.Services = append(published.Services, svc)
		} else {
			vips.Services = append(vips.Services, svc)
		}
	}
	return vips, published
}

// Set refuses what makes no sense as a whole, so that neither part changes.
func (b Split) Set(s State) error {
	if _, err := Normalize(s); err != nil {
		return err
	}
	vips, published := parts(s)
	return errors.Join(b.VIPs.Set(vips), b.Published.Set(published))
}

// Close closes both.
func (b Split) Close() error { return errors.Join(b.VIPs.Close(), b.Published.Close()) }

// Held is what both hold.
func (b Split) Held() (State, error) {
	vips, err := b.VIPs.Held()
	if err != nil {
		return State{}, err
	}
	out, err := b.Published.Held()
	out.Clients = append(slices.Clone(out.Clients), vips.Clients...)
	out.Services = append(slices.Clone(out.Services), vips.Services...)
	return out, err
}

// Damage is that of both, as far as they look.
func (b Split) Damage() ([]Difference, error) {
	var out []Difference
	var errs []error
	for _, part := range []any{b.VIPs, b.Published} {
		if i, ok := part.(Inspector); ok {
			found, err := i.Damage()
			out, errs = append(out, found...), append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// Suspects are those of published ports.
func (b Split) Suspects(ctx context.Context, report func(Suspect)) error {
	if w, ok := b.Published.(Witness); ok {
		return w.Suspects(ctx, report)
	}
	<-ctx.Done()
	return ctx.Err()
}
