// Package logs brings together what tasks write to their standard streams. A
// node reads its own engine (node.go); a manager calls the nodes concerned
// through their tunnels and joins what they send (collect.go).
//
// Without Follow, lines come in the order of their times, over all tasks; with
// it, as they arrive, and tasks that start later join. A task whose node cannot
// be reached costs one message that says so, at the end or as it happens, and
// never holds up the others.
//
// | goroutine                     | started by    | ends with                   |
// |-------------------------------|---------------|-----------------------------|
// | Collect: one reader per task  | Collect       | the task's stream, or ctx   |
// | Collect: watcher, with Follow | Collect       | ctx                         |
package logs

import (
	"net/url"
	"strconv"
	"time"
)

// Options choose what is read.
type Options struct {
	// Follow goes on with what is written later.
	Follow bool
	// Stdout and Stderr are the streams wanted.
	Stdout, Stderr bool
	// Tail is the number of last lines of each task; negative: all.
	Tail int
	// Since leaves out what was written before; zero: nothing.
	Since time.Time
}

// Line is what a task wrote at once.
type Line struct {
	Time time.Time
	// Stderr says which stream it was written to.
	Stderr bool `json:",omitempty"`
	// Attrs are the log driver's, url-encoded pairs joined by commas.
	Attrs string `json:",omitempty"`
	// Data ends with a newline, as a rule.
	Data []byte
}

func (o Options) query() string {
	q := url.Values{"tail": {strconv.Itoa(o.Tail)}}
	for name, set := range map[string]bool{"follow": o.Follow, "stdout": o.Stdout, "stderr": o.Stderr} {
		if set {
			q.Set(name, "1")
		}
	}
	if !o.Since.IsZero() {
		q.Set("since", o.Since.Format(time.RFC3339Nano))
	}
	return q.Encode()
}

func parseOptions(q url.Values) (o Options, err error) {
	o = Options{Follow: q.Get("follow") == "1", Stdout: q.Get("stdout") == "1", Stderr: q.Get("stderr") == "1"}
	if o.Tail, err = strconv.Atoi(q.Get("tail")); err != nil {
		return o, err
	}
	if since := q.Get("since"); since != "" {
		o.Since, err = time.Parse(time.RFC3339Nano, since)
	}
	return o, err
}
