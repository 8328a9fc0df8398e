// Package observe lets people and their tools see what a node's data plane does:
// metrics for Prometheus, a comparison of what should be with what the kernel
// holds, the way of a packet step by step, and the connections being balanced.
//
// It only reads. Each question asks the parts anew (sources.go): what they hold
// comes from the kernel, what should be from the newest view that a manager gave,
// through the same compiler that programs the kernel. Nothing is collected in
// the background, and no goroutine outlives a question.
//
//	metrics.go  GET /metrics          collect: one reading of all parts
//	check.go    GET /mesh/net/check   differences, pure once the parts are read
//	trace.go    GET /mesh/net/trace   steps of one packet's way
//	flows.go    GET /mesh/net/flows   connections, with the tasks behind them
package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/meshd/meshd/orchestrator/remote"
)

// Config says what to look at.
type Config struct {
	Sources
	// Version is meshd's own.
	Version string
	Logger  *slog.Logger
	// Clock is the time that lags are measured by; default time.Now.
	Clock func() time.Time
}

// Observer answers questions about one node.
type Observer struct {
	Sources
	log     *slog.Logger
	now     func() time.Time
	metrics http.Handler
}

// New returns an observer with a metrics registry of its own.
func New(c Config) (*Observer, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	o := &Observer{Sources: c.Sources, log: c.Logger, now: c.Clock}
	registry := prometheus.NewRegistry()
	for _, collector := range []prometheus.Collector{
		newCollector(o, c.Version),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(collector); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	o.metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(c.Logger.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
	})
	return o, nil
}

// Metrics answers scrapes.
func (o *Observer) Metrics() http.Handler { return o.metrics }

// scrapeTime bounds reading a request for metrics.
const scrapeTime = 10 * time.Second

// Serve answers scrapes at /metrics on a TCP address until ctx ends.
func (o *Observer) Serve(ctx context.Context, addr string) error {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for scrapes of metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", o.metrics)
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: scrapeTime,
		ErrorLog: slog.NewLogLogger(o.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // a scrape cut off is repeated by itself
	defer stop()
	o.log.Info("metrics are served", "address", l.Addr())
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// told returns the view, or why there is none to compare with.
func (o *Observer) told() (View, error) {
	v := o.View()
	switch {
	case v.Self == "":
		return v, remote.Errorf(errdefs.ErrUnavailable, `This node is not part of a swarm. Use "docker swarm init" or "docker swarm join" first.`)
	case !v.Told:
		return v, remote.Errorf(errdefs.ErrUnavailable, "No manager has told this node yet what its networks should be; the kernel keeps what it had. Is a manager reachable (port 2377/tcp)?")
	}
	return v, nil
}
