package api

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"

	"github.com/meshd/meshd/orchestrator/logs"
	"github.com/meshd/meshd/orchestrator/store"
)

// source finds whose logs are asked for: its task template, and its tasks, which for a
// service may become more while they are read.
type source func(v *store.View, ref string) (*store.Spec, func(*store.View) []*store.Task, error)

func (s *Server) serviceLogs(w http.ResponseWriter, r *http.Request, c Control) error {
	return s.logs(w, r, c, func(v *store.View, ref string) (*store.Spec, func(*store.View) []*store.Task, error) {
		o, err := findService(v, ref)
		if err != nil {
			return nil, nil, err
		}
		return v.Spec(o.ID, o.SpecVersion), func(v *store.View) []*store.Task { return v.TasksOfService(o.ID) }, nil
	})
}

func (s *Server) taskLogs(w http.ResponseWriter, r *http.Request, c Control) error {
	return s.logs(w, r, c, func(v *store.View, ref string) (*store.Spec, func(*store.View) []*store.Task, error) {
		o, err := findTask(v, ref)
		if err != nil {
			return nil, nil, err
		}
		return v.Spec(o.ServiceID, o.SpecVersion), func(v *store.View) []*store.Task {
			if t := v.Task(o.ID); t != nil {
				return []*store.Task{t}
			}
			return nil
		}, nil
	})
}

// logs streams what the tasks of a source write, in the form of the engine's own
// GET /containers/{id}/logs.
func (s *Server) logs(w http.ResponseWriter, r *http.Request, c Control, of source) error {
	var choose func(*store.View) []*store.Task
	tty := false
	err := look(c.Store(), func(v *store.View) error {
		spec, tasks, err := of(v, r.PathValue("id"))
		tty = spec != nil && spec.Template.ContainerSpec != nil && spec.Template.ContainerSpec.TTY
		choose = tasks
		return err
	})
	if err != nil {
		return err
	}
	o, err := logOptions(r)
	if err != nil {
		return err
	}
	out := logWriter{w: w, ctl: http.NewResponseController(w), raw: tty, details: isSet(r, "details"), timestamps: isSet(r, "timestamps")}
	w.Header().Set("Content-Type", logType(r, tty))
	w.WriteHeader(http.StatusOK)
	if out.ctl.Flush() != nil {
		return nil // the client went away
	}
	var failed []string
	err = logs.Collector{Store: c.Store(), Nodes: c.Nodes()}.Collect(r.Context(), choose, o, func(m logs.Message) error {
		if m.Err == nil {
			return out.line(m)
		}
		text := fmt.Sprintf("logs of task %s on node %s: %v", m.Task.ID, nodeName(c, m.Task.NodeID), m.Err)
		if o.Follow { // the stream goes on
			m.Line = logs.Line{Time: time.Now(), Stderr: true, Data: []byte("meshd: " + text + "\n")}
			return out.line(m)
		}
		failed = append(failed, text)
		return nil
	})
	if err == nil && len(failed) > 0 {
		slices.Sort(failed)
		err = fmt.Errorf("these logs are not complete: %s", strings.Join(failed, "; "))
	}
	if err != nil && r.Context().Err() == nil {
		out.fail(err)
	}
	return nil
}

func nodeName(c Control, id string) string {
	name := id
	c.Store().View(func(v *store.View) {
		if n := v.Node(id); n != nil && n.Hostname() != "" {
			name = n.Hostname()
		}
	})
	return name
}

func logOptions(r *http.Request) (logs.Options, error) {
	o := logs.Options{Follow: isSet(r, "follow"), Stdout: isSet(r, "stdout"), Stderr: isSet(r, "stderr"), Tail: -1}
	if !o.Stdout && !o.Stderr {
		return o, invalid("Bad parameters: you must choose at least one stream")
	}
	if tail := r.URL.Query().Get("tail"); tail != "" && tail != "all" {
		n, err := strconv.Atoi(tail)
		if err != nil || n < 0 {
			return o, invalid("tail is %q: a number of lines or \"all\" is needed", tail)
		}
		o.Tail = n
	}
	since, err := parseStamp(r.URL.Query().Get("since"))
	if err != nil {
		return o, invalid("since is %q: seconds since 1970 are needed, with a fraction or without", r.URL.Query().Get("since"))
	}
	o.Since = since
	return o, nil
}

// parseStamp reads Unix seconds with up to nine digits behind the point; "" and
// "0" are no time.
func parseStamp(s string) (time.Time, error) {
	if s == "" || s == "0" {
		return time.Time{}, nil
	}
	whole, fraction, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	nano, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
	return time.Unix(sec, int64(nano)), err
}

func logType(r *http.Request, tty bool) string {
	if v, ok := requestVersion(r.Context()); tty || ok && v.less(apiVersion{1, 42}) {
		return "application/vnd.docker.raw-stream"
	}
	return "application/vnd.docker.multiplexed-stream"
}

// stampFormat is the engine's: all lines have their text at the same column.
const stampFormat = "2006-01-02T15:04:05.000000000Z07:00"

// logWriter writes lines as the engine does.
type logWriter struct {
	w                        http.ResponseWriter
	ctl                      *http.ResponseController
	raw, details, timestamps bool
}

func (o logWriter) line(m logs.Message) error {
	var text []byte
	if o.timestamps {
		text = append(m.Line.Time.UTC().AppendFormat(text, stampFormat), ' ')
	}
	if o.details {
		text = append(append(text, details(m)...), ' ')
	}
	stream := stdcopy.Stdout
	if m.Line.Stderr {
		stream = stdcopy.Stderr
	}
	return o.write(stream, append(text, m.Line.Data...))
}

// details say where a line comes from, beside what the log driver says of it.
func details(m logs.Message) string {
	var attrs []string
	if m.Line.Attrs != "" {
		attrs = strings.Split(m.Line.Attrs, ",")
	}
	attrs = append(attrs, "com.docker.swarm.node.id="+m.Task.NodeID,
		"com.docker.swarm.service.id="+m.Task.ServiceID, "com.docker.swarm.task.id="+m.Task.ID)
	slices.Sort(attrs)
	return strings.Join(attrs, ",")
}

// fail ends the stream with an error that clients show as such.
func (o logWriter) fail(err error) {
	_ = o.write(stdcopy.Systemerr, []byte(err.Error()+"\n")) // the client went away
}

// write sends a message in the engine's frame: the stream, three zeros, the length.
func (o logWriter) write(stream stdcopy.StdType, text []byte) error {
	if !o.raw {
		frame := make([]byte, 8, 8+len(text))
		frame[0] = byte(stream)
		binary.BigEndian.PutUint32(frame[4:], uint32(len(text)))
		text = append(frame, text...)
	}
	if _, err := o.w.Write(text); err != nil {
		return err
	}
	return o.ctl.Flush()
}
