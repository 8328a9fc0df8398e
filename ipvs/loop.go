package ipvs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Keeper is a Balancer that keeps what it was told: what failed is tried again,
// and now and then the kernel is compared with the desired state, in case
// somebody else changed it.
type Keeper struct {
	balancer Balancer
	config   KeeperConfig
	failed   chan struct{}

	mu    sync.Mutex // guards want, isSet and sound; held over calls of the balancer
	want  State
	isSet bool
	sound bool // the last Set worked, so that what differs now is another's doing

	repairs repairs
}

// KeeperConfig tunes a Keeper; the zero value is good.
type KeeperConfig struct {
	// Retry is the first pause after a failure; it doubles up to Resync. Default 500 ms.
	Retry time.Duration
	// Resync is the time between comparisons with the kernel. Default 30 s.
	Resync time.Duration
	// Logger gets failures; the default is slog's.
	Logger *slog.Logger
}

// NewKeeper stands before a balancer; Close is still its caller's business.
func NewKeeper(b Balancer, c KeeperConfig) *Keeper {
	if c.Retry == 0 {
		c.Retry = 500 * time.Millisecond
	}
	if c.Resync == 0 {
		c.Resync = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Keeper{balancer: b, config: c, failed: make(chan struct{}, 1)}
}

// Set applies the state at once. If that fails, Run goes on trying.
func (k *Keeper) Set(s State) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.want, k.isSet = s, true
	err := k.balancer.Set(s)
	k.sound = err == nil
	if err != nil {
		select {
		case k.failed <- struct{}{}:
		default:
		}
	}
	return err
}

// Close closes the balancer.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.balancer.Close()
}

// Run retries and resyncs until the context ends.
func (k *Keeper) Run(ctx context.Context) error {
	pause := k.config.Resync
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-k.failed:
			timer.Stop()
			pause = k.config.Retry
			continue
		case <-timer.C:
		}
		if err := k.again(); err != nil {
			pause = min(2*pause, k.config.Resync)
			k.config.Logger.Error("load balancer not as it should be", "err", err, "retry", pause)
			continue
		}
		pause = k.config.Resync
	}
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
	err := k.balancer.Set(k.want)
	if k.sound = err == nil; k.sound {
		k.noteRepairs(drift)
	}
	return err
}
