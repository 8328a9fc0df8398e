package api

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/meshd/meshd/orchestrator/journal"
)

// span is the time that a client asks for events of; zero times stand for no limit.
type span struct{ since, until time.Time }

func readSpan(r *http.Request) (t span, err error) {
	q := r.URL.Query()
	for key, at := range map[string]*time.Time{"since": &t.since, "until": &t.until} {
		if *at, err = parseStamp(q.Get(key)); err != nil {
			return t, invalid("%s is %q: seconds since 1970 are needed, with a fraction or without", key, q.Get(key))
		}
	}
	if !t.until.IsZero() && t.until.Before(t.since) {
		return t, invalid("`since` time (%s) cannot be after `until` time (%s)", q.Get("since"), q.Get("until"))
	}
	return t, nil
}

func (t span) holds(nano int64) bool {
	return (t.since.IsZero() || nano >= t.since.UnixNano()) && (t.until.IsZero() || nano <= t.until.UnixNano())
}

// query is the engine's form of a question for this time, with the filters of another.
func (t span) query(of url.Values) string {
	q := url.Values{}
	if f := of.Get("filters"); f != "" {
		q.Set("filters", f)
	}
	for key, at := range map[string]time.Time{"since": t.since, "until": t.until} {
		if !at.IsZero() {
			q.Set(key, fmt.Sprintf("%d.%09d", at.Unix(), at.Nanosecond()))
		}
	}
	return q.Encode()
}

// eventStream is one client that reads events.
type eventStream struct {
	w       http.ResponseWriter
	out     *http.ResponseController
	filters filters
	asked   span
}

// events streams what happens: the engine's events, and the swarm's from the journal.
// What was is told first and in order, if asked for; then both as they come. The
// stream ends when the engine's does.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	c, ok := s.node.Manager()
	if !ok {
		return s.engine.forward(w, r)
	}
	e := eventStream{w: w, out: http.NewResponseController(w)}
	var err error
	if e.filters, err = decodeFilters(r.URL.Query().Get("filters")); err != nil {
		return err
	}
	if e.asked, err = readSpan(r); err != nil {
		return err
	}
	now, began := time.Now(), c.Store().Changed()
	var past []told
	next := e.asked
	if e.asked != (span{}) && !e.asked.since.After(now) {
		if past, err = s.past(r, c.Journal(), e, began, now); err != nil {
			return err
		}
		if back := now.Add(-overlap); next.since.Before(back) {
			next.since = back
		}
	}
	if !next.until.IsZero() && !next.until.After(now) {
		e.begin(r)
		e.tell(past)
		return nil
	}
	// The engine's stream is open before the client gets the headers: it misses nothing.
	body, err := s.engine.open(r.Context(), "/events?"+next.query(r.URL.Query()))
	if err != nil {
		return err
	}
	lines, join := readLines(r.Context(), body)
	defer join()
	e.begin(r)
	if e.tell(past) {
		e.follow(r.Context(), c.Journal(), began, lines, past)
	}
	return nil
}

// overlap is how far the engine is asked back for what it told in the history already,
// so that nothing falls between: its events have their time before it keeps them.
const overlap = 5 * time.Second

// told is an event in the form in which it goes out.
type told struct {
	nano int64
	line []byte
}

// past is what was up to now, in order.
func (s *Server) past(r *http.Request, j *journal.Journal, e eventStream, upTo uint64, now time.Time) ([]told, error) {
	was := e.asked
	if was.until.IsZero() || was.until.After(now) {
		was.until = now
	}
	ctx, cancel := context.WithTimeout(r.Context(), probeTime)
	defer cancel()
	body, err := s.engine.open(ctx, "/events?"+was.query(r.URL.Query()))
	if err != nil {
		return nil, err
	}
	lines, join := readLines(ctx, body)
	defer join()
	var out []told
	for line := range lines {
		var m events.Message
		if json.Unmarshal(line, &m) == nil {
			out = append(out, told{m.TimeNano, line})
		}
	}
	if err := cmp.Or(ctx.Err(), j.UpTo(ctx, upTo)); err != nil {
		return nil, refuse(http.StatusServiceUnavailable, "what has happened could not be read within %v: %v", probeTime, err)
	}
	entries, _, _ := j.After(0)
	for _, entry := range entries {
		if entry.Index <= upTo && was.holds(entry.TimeNano) {
			out = append(out, e.encode(entry)...)
		}
	}
	slices.SortStableFunc(out, func(a, b told) int { return cmp.Compare(a.nano, b.nano) })
	return out, nil
}

// encode is an event's line; none if the client did not ask for such.
func (e eventStream) encode(entry journal.Entry) []told {
	if !matchEvent(e.filters, entry.Message) {
		return nil
	}
	line, err := json.Marshal(entry.Message)
	if err != nil {
		return nil
	}
	return []told{{entry.TimeNano, append(line, '\n')}}
}

// begin sends the headers.
func (e eventStream) begin(r *http.Request) {
	e.w.Header().Set("Content-Type", eventType(r))
	e.w.WriteHeader(http.StatusOK)
	_ = e.out.Flush() // the client went away: the next write says so, too
}

// eventType is the kind of stream that a client of today prefers; older ones know one.
func eventType(r *http.Request) string {
	if v, ok := requestVersion(r.Context()); ok && !v.less(apiVersion{1, 52}) {
		for _, known := range []string{"application/jsonl", "application/x-ndjson"} {
			if strings.Contains(strings.Join(r.Header.Values("Accept"), ","), known) {
				return known
			}
		}
	}
	return "application/json"
}

// tell sends events; false if nobody listens any more.
func (e eventStream) tell(all []told) bool {
	for _, t := range all {
		if _, err := e.w.Write(t.line); err != nil {
			return false
		}
	}
	return len(all) == 0 || e.out.Flush() == nil
}

// follow tells what happens behind a raft index, and what the engine says but for the
// past, until the engine's stream ends or nobody listens.
func (e eventStream) follow(ctx context.Context, j *journal.Journal, index uint64, lines <-chan []byte, past []told) {
	seen := map[string]int{}
	for _, p := range past {
		seen[string(p.line)]++
	}
	for open := true; ; {
		entries, upTo, more := j.After(index)
		index = max(index, upTo)
		var ours []told
		for _, entry := range entries {
			ours = append(ours, e.encode(entry)...)
		}
		if !e.tell(ours) || !open {
			return
		}
		var line []byte
		select {
		case <-ctx.Done():
			return
		case <-more:
		case line, open = <-lines:
		}
		if seen[string(line)] > 0 {
			seen[string(line)]--
		} else if line != nil && !e.tell([]told{{line: line}}) {
			return
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
