package consensus

import (
	"context"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// quiet is how long a message of raft's is not repeated: it says every 60 ms
// that a dead peer is dead.
const quiet = 10 * time.Second

// bridge lets raft log through slog, its news at Info and below at Debug.
func bridge(l *slog.Logger) hclog.Logger {
	return &hcLogger{out: l.With("part", "raft"), said: &said{at: map[string]time.Time{}}}
}

// hcLogger implements hclog.Logger; raft uses little of it.
type hcLogger struct {
	out  *slog.Logger
	name string
	args []any
	said *said
}

type said struct {
	mu sync.Mutex
	at map[string]time.Time
}

// again says that a message was logged a short time ago.
func (s *said) again(msg string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.at[msg]) < quiet {
		return true
	}
	s.at[msg] = now
	return false
}

// Log implements hclog.Logger.
func (h *hcLogger) Log(level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch {
	case level >= hclog.Error:
		to = slog.LevelWarn // what it calls an error, it recovers from
	case level == hclog.Warn:
		to = slog.LevelInfo
	}
	if to > slog.LevelDebug && h.said.again(msg, time.Now()) {
		to = slog.LevelDebug
	}
	h.out.Log(context.Background(), to, msg, args...)
}

func (h *hcLogger) Trace(msg string, args ...any) { h.Log(hclog.Trace, msg, args...) }
func (h *hcLogger) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }
func (h *hcLogger) Info(msg string, args ...any)  { h.Log(hclog.Info, msg, args...) }
func (h *hcLogger) Warn(msg string, args ...any)  { h.Log(hclog.Warn, msg, args...) }
func (h *hcLogger) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

func (h *hcLogger) IsTrace() bool { return false }
func (h *hcLogger) IsDebug() bool { return h.out.Enabled(context.Background(), slog.LevelDebug) }
func (h *hcLogger) IsInfo() bool  { return h.IsDebug() }
func (h *hcLogger) IsWarn() bool  { return true }
func (h *hcLogger) IsError() bool { return true }

func (h *hcLogger) ImpliedArgs() []any { return h.args }

func (h *hcLogger) With(args ...any) hclog.Logger {
	return &hcLogger{out: h.out.With(args...), name: h.name, args: append(h.args[:len(h.args):len(h.args)], args...), said: h.said}
}

func (h *hcLogger) Name() string                        { return h.name }
func (h *hcLogger) Named(name string) hclog.Logger      { c := *h; c.name = name; return &c }
func (h *hcLogger) ResetNamed(name string) hclog.Logger { return h.Named(name) }
func (h *hcLogger) SetLevel(hclog.Level)                {}
func (h *hcLogger) GetLevel() hclog.Level               { return hclog.NoLevel }

func (h *hcLogger) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(h.StandardWriter(o), "", 0)
}

func (h *hcLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{h} }

type lineWriter struct{ to *hcLogger }

func (w lineWriter) Write(p []byte) (int, error) {
	w.to.Debug(strings.TrimSpace(string(p)))
	return len(p), nil
}
