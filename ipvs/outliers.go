package ipvs

import (
	"context"
	"fmt"
	"maps"
	"time"
)

// EjectionCount is what ejections are counted by.
type EjectionCount struct {
	Key     Key
	Service string
	Failure Failure
}

// Ejected lists the backends that get no new connections for a while.
func (k *Keeper) Ejected() []Ejected {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ejector.list()
}

// Ejections counts ejections since this process began, of services that there are.
func (k *Keeper) Ejections() map[EjectionCount]uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.ejections)
}

// watch has the balancer report until ctx ends; without a Witness there is nothing to watch.
func (k *Keeper) watch(ctx context.Context) {
	w, ok := k.balancer.(Witness)
	if !ok {
		return
	}
	for ctx.Err() == nil {
		if err := w.Suspects(ctx, k.accuse); err != nil && ctx.Err() == nil {
			k.config.Logger.Error("failing backends are not noticed", "err", err, "retry", k.config.Resync)
		}
		select {
		case <-ctx.Done():
		case <-time.After(k.config.Resync):
		}
	}
}

// accuse ejects a backend if it may.
func (k *Keeper) accuse(s Suspect) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out, ok := k.ejector.accuse(k.want, s, time.Now())
	if !ok {
		return
	}
	if k.ejections == nil {
		k.ejections = map[EjectionCount]uint64{}
	}
	k.ejections[EjectionCount{s.Key, out.Service, s.Failure}]++
	k.config.Logger.Warn("backend ejected: it gets no new connections for a while", "service", out.Service, "of", s.Key.String(), "backend", backendText(s),
		"why", fmt.Sprintf("it %s %d times in a row", s.Failure, s.Count), "for", time.Until(out.Until).Round(time.Second), "times", out.Times)
	_ = k.applyLocked() // Run tries again
	k.poke()
}

func backendText(s Suspect) string {
	if s.Port == 0 {
		return fmt.Sprintf("%s, asked for port %d", s.Addr, s.Asked)
	}
	return fmt.Sprintf("%s port %d", s.Addr, s.Port)
}

// expire lets backends return.
func (k *Keeper) expire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	returned := k.ejector.expire(time.Now())
	for _, r := range returned {
		k.config.Logger.Info("backend gets connections again", "service", r.Service, "of", r.Key.String(), "backend", backendText(r.Suspect))
	}
	if len(returned) > 0 {
		_ = k.applyLocked() // Run tries again
	}
}

// untilReturn is how long it takes until expire has something to do; ok false: for ever.
func (k *Keeper) untilReturn() (time.Duration, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, ok := k.ejector.next()
	return max(time.Until(at), 0), ok
}

// forgetLocked drops what is known of services that are not wanted any more.
func (k *Keeper) forgetLocked() {
	k.ejector.keep(k.want)
	if len(k.ejections) == 0 {
		return
	}
	wanted := map[Key]bool{}
	for _, s := range k.want.Services {
		wanted[s.Key] = true
	}
	maps.DeleteFunc(k.ejections, func(c EjectionCount, _ uint64) bool { return !wanted[c.Key] })
}
