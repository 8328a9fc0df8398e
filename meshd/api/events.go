package api

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/meshd/meshd/orchestrator/store"
)

// events streams what happens: the engine's events as they come, and between
// them the swarm's, taken from the store's commits. The swarm's past is not kept:
// "since" concerns the engine's events only, and the stream ends when the
// engine's does.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	c, ok := s.node.Manager()
	if !ok {
		return s.engine.forward(w, r)
	}
	f, err := decodeFilters(r.URL.Query().Get("filters"))
	if err != nil {
		return err
	}
	// Watch before the engine's stream is open: a client that got the headers
	// misses nothing.
	watch := c.Store().Watch(nil)
	defer func() { watch.Close() }()
	body, err := s.engine.open(r.Context(), "/events?"+r.URL.RawQuery)
	if err != nil {
		return err
	}
	lines, join := readLines(r.Context(), body)
	defer join()

	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	if out.Flush() != nil {
		return nil // the client went away, as below
	}
	for {
		var chunk []byte
		select {
		case <-r.Context().Done():
			return nil
		case line, open := <-lines:
			if !open {
				return nil
			}
			chunk = line
		case commit, open := <-watch.C:
			if !open { // lagged: what was missed is gone
				watch = c.Store().Watch(nil)
				continue
			}
			chunk = encodeEvents(f, commit)
		}
		if len(chunk) == 0 {
			continue
		}
		if _, err := w.Write(chunk); err != nil || out.Flush() != nil {
			return nil
		}
	}
}

// readLines reads a stream line by line until it ends or ctx does. join closes
// it and waits for the reader.
func readLines(ctx context.Context, body io.ReadCloser) (lines <-chan []byte, join func()) {
	ctx, cancel := context.WithCancel(ctx)
	out, done := make(chan []byte), make(chan struct{})
	go func() {
		defer close(done)
		defer close(out)
		scan := bufio.NewScanner(body)
		scan.Buffer(nil, maxBody)
		for scan.Scan() {
			line := append([]byte(nil), scan.Bytes()...)
			select {
			case out <- append(line, '\n'):
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, func() {
		cancel()
		_ = body.Close()
		<-done
	}
}

func encodeEvents(f filters, c store.Commit) []byte {
	var out []byte
	for _, e := range c.Events {
		m, ok := message(e, time.Now())
		if !ok || !matchEvent(f, m) {
			continue
		}
		if line, err := json.Marshal(m); err == nil {
			out = append(append(out, line...), '\n')
		}
	}
	return out
}
