package runner

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"github.com/meshd/meshd/orchestrator/logs"
)

// maxFrame bounds one message of the engine's log stream; it cuts lines at 16 KiB.
const maxFrame = 1 << 20

// Logs implements logs.Source.
func (r *Runner) Logs(ctx context.Context, task string, o logs.Options, line func(logs.Line) error) error {
	id, err := r.containerOf(ctx, task)
	if err != nil {
		return err
	}
	config, _, err := r.examine(ctx, id)
	if err != nil {
		return err
	}
	opts := client.ContainerLogsOptions{
		ShowStdout: o.Stdout, ShowStderr: o.Stderr, Follow: o.Follow, Timestamps: true, Details: true, Tail: "all",
	}
	if o.Tail >= 0 {
		opts.Tail = strconv.Itoa(o.Tail)
	}
	if !o.Since.IsZero() {
		opts.Since = fmt.Sprintf("%d.%09d", o.Since.Unix(), o.Since.Nanosecond())
	}
	stream, err := r.api.ContainerLogs(ctx, id, opts)
	if err != nil {
		return plain(err)
	}
	defer stream.Close()
	frames := framed
	if config.Tty {
		frames = unframed
	}
	err = frames(bufio.NewReader(stream), func(stderr bool, text []byte) error {
		l, err := parseLine(text)
		if err != nil {
			return err
		}
		l.Stderr = stderr
		return line(l)
	})
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// containerOf finds the container of a task of this node.
func (r *Runner) containerOf(ctx context.Context, task string) (string, error) {
	list, err := r.api.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: client.Filters{}.Add("label", labelOurs+"="+task),
	})
	if err != nil {
		return "", plain(err)
	}
	if len(list.Items) == 0 {
		return "", fmt.Errorf("task %s has no container on its node any more: %w", task, errdefs.ErrNotFound)
	}
	return list.Items[0].ID, nil
}

// framed reads the engine's multiplexed stream: a header of eight bytes, the
// stream in the first and the length in the last four, before each message.
func framed(r *bufio.Reader, message func(stderr bool, text []byte) error) error {
	for {
		var header [8]byte
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(header[4:])
		if size > maxFrame {
			return fmt.Errorf("the engine sends a log message of %d bytes", size)
		}
		text := make([]byte, size)
		if _, err := io.ReadFull(r, text); err != nil {
			return err
		}
		switch stdcopy.StdType(header[0]) {
		case stdcopy.Stdin, stdcopy.Stdout, stdcopy.Stderr:
		case stdcopy.Systemerr:
			return errors.New(strings.TrimSpace(string(text)))
		default:
			return fmt.Errorf("the engine sends log messages of an unknown stream, %d", header[0])
		}
		if err := message(header[0] == byte(stdcopy.Stderr), text); err != nil {
			return err
		}
	}
}

// unframed reads the stream of a container with a terminal, line by line.
func unframed(r *bufio.Reader, message func(stderr bool, text []byte) error) error {
	for {
		text, err := r.ReadBytes('\n')
		if len(text) > 0 {
			if err := message(false, text); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// parseLine takes apart what the engine writes with timestamps and details:
// the time, the log driver's attributes, which may be none, and the text.
func parseLine(text []byte) (logs.Line, error) {
	stamp, rest, ok := bytes.Cut(text, []byte(" "))
	attrs, data, ok2 := bytes.Cut(rest, []byte(" "))
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if !ok || !ok2 || err != nil {
		return logs.Line{}, fmt.Errorf("the engine sends a log line without time and details: %.80q", text)
	}
	return logs.Line{Time: t, Attrs: string(attrs), Data: data}, nil
}
