package ipvs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Keeper is a Balancer that keeps what it was told: what failed is tried again,
// and now and then the kernel is compared with the desired state, in case
// somebody else changed it. It ejects backends that fail (eject.go).
type Keeper struct {
	balancer Balancer
	config   KeeperConfig
	wake     chan struct{}

	mu        sync.Mutex // guards all up to repairs; held over calls of the balancer
	want      State
	isSet     bool
	sound     bool // the last Set worked, so that what differs now is another's doing
	failed    bool // the last Set did not, and nobody has tried again since
	ejector   ejector
	ejections map[EjectionCount]uint64

	repairs repairs
}

// KeeperConfig tunes a Keeper; the zero value is good.
type KeeperConfig struct {
	// Retry is the first pause after a failure; it doubles up to Resync. Default 500 ms.
	Retry time.Duration
	// Look is the time between comparisons with the kernel, which end with a repair if
	// somebody changed it. Where one takes long, it is a hundred times as long as that, at
	// most Resync: looking costs a hundredth of a processor. Default 2 s.
	Look time.Duration
	// Resync is the time after which the state is set again anyhow. Default 30 s.
	Resync time.Duration
	// Logger gets failures; the default is slog's.
	Logger *slog.Logger
}

// NewKeeper stands before a balancer; Close is still its caller's business.
func NewKeeper(b Balancer, c KeeperConfig) *Keeper {
	if c.Retry == 0 {
		c.Retry = 500 * time.Millisecond
	}
	if c.Look == 0 {
		c.Look = 2 * time.Second
	}
	if c.Resync == 0 {
		c.Resync = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Keeper{balancer: b, config: c, wake: make(chan struct{}, 1)}
}

// Set applies the state at once. If that fails, Run goes on trying.
func (k *Keeper) Set(s State) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.want, k.isSet = s, true
	k.forgetLocked()
	return k.applyLocked()
}

// applyLocked makes the balancer do what is wanted, without those that are ejected.
func (k *Keeper) applyLocked() error {
	err := k.balancer.Set(k.ejector.apply(k.want))
	if k.sound = err == nil; !k.sound {
		k.failed = true
		k.poke()
	}
	return err
}

// poke wakes Run, because of a failure or of an ejection.
func (k *Keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Close closes the balancer.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.balancer.Close()
}

// Run retries, resyncs and ejects until the context ends.
func (k *Keeper) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { k.watch(ctx) })
	pause := k.config.Resync
	due, look := time.Now().Add(pause), time.Now().Add(k.config.Look)
	for {
		wait := min(time.Until(due), time.Until(look))
		if back, any := k.untilReturn(); any {
			wait = min(wait, back)
		}
		timer := time.NewTimer(max(wait, 0))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-k.wake:
			timer.Stop()
			if k.hasFailed() {
				pause = k.config.Retry
				due = time.Now().Add(pause)
			}
			continue
		case <-timer.C:
		}
		k.expire()
		if now := time.Now(); now.Before(due) {
			if now.Before(look) {
				continue
			}
			if !k.drifted() {
				look = time.Now().Add(min(max(k.config.Look, 100*time.Since(now)), k.config.Resync))
				continue
			}
		}
		look = time.Now().Add(k.config.Look)
		if err := k.again(); err != nil {
			pause = min(2*pause, k.config.Resync)
			k.config.Logger.Error("load balancer not as it should be", "err", err, "retry", pause)
		} else {
			pause = k.config.Resync
		}
		due = time.Now().Add(pause)
	}
}

// drifted says that somebody changed what the kernel holds.
func (k *Keeper) drifted() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.isSet || !k.sound {
		return false // there is a retry under way
	}
	d, err := k.differencesLocked(k.want)
	return err != nil || len(d) > 0
}

// hasFailed tells once of each failure.
func (k *Keeper) hasFailed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	failed := k.failed
	k.failed = false
	return failed
}

func (k *Keeper) again() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.isSet {
		return nil
	}
	var drift []Difference
	if k.sound {
		drift, _ = k.differencesLocked(k.want) // what cannot be read, Set complains of
	}
	err := k.balancer.Set(k.ejector.apply(k.want))
	if k.sound = err == nil; k.sound {
		k.noteRepairs(drift)
	}
	return err
}
