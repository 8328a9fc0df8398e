package meshd

import (
	"context"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshd/meshd/dns"
	"github.com/meshd/meshd/meshd/plan"
	"github.com/meshd/meshd/overlay"
)

const systemResolvConf = "/etc/resolv.conf"

// surroundings reads the machine's addresses and resolvers.
func surroundings() ([]plan.Interface, []netip.AddrPort) {
	var out []plan.Interface
	if ifs, err := publishedInterfaces(); err == nil {
		for _, i := range ifs {
			out = append(out, plan.Interface(i))
		}
	}
	return out, dns.SystemUpstreams(systemResolvConf)
}

const (
	// statPeriod is how often a file is looked at. It may be replaced, or a link to
	// one that is, anywhere on the way: asking for its state sees all of that.
	statPeriod = 2 * time.Second
	// watchRetry is the pause before addresses are watched again.
	watchRetry = 5 * time.Second
)

// watchMachine calls changed after the machine's addresses, or its resolvers' file,
// changed. It may call too often, and returns nil when ctx ends.
func watchMachine(ctx context.Context, resolvConf string, changed func(), log *slog.Logger) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for ctx.Err() == nil {
			if err := overlay.WatchAddrs(ctx, changed); err != nil {
				log.Warn("changes of this machine's addresses are not noticed at once", "error", err, "retry", watchRetry)
			}
			pause(ctx, watchRetry)
			changed() // what was missed meanwhile
		}
		return nil
	})
	g.Go(func() error {
		before := stateOf(resolvConf)
		for ctx.Err() == nil {
			pause(ctx, statPeriod)
			if now := stateOf(resolvConf); now != before {
				before = now
				changed()
			}
		}
		return nil
	})
	return g.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// fileState tells two contents of a file apart, as far as can be seen from outside.
type fileState struct {
	size     int64
	modified time.Time
	mode     fs.FileMode
}

func stateOf(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{}
	}
	return fileState{info.Size(), info.ModTime(), info.Mode()}
}
