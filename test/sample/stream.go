package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// streamProtocol is what GET /echo switches to: each byte comes back.
const streamProtocol = "echo"

// hostHeader of the answer that switches names the task.
const hostHeader = "Sample-Hostname"

// echoStream sends back what comes, until its client has enough.
func echoStream(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != streamProtocol {
		http.Error(w, "not asked to upgrade to "+streamProtocol, http.StatusBadRequest)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	name, _ := os.Hostname() // "" says enough
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 %d Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n",
		http.StatusSwitchingProtocols, streamProtocol, hostHeader, name); err != nil {
		return // the caller went away
	}
	_, _ = io.Copy(conn, buffered.Reader) // the same
}

// A stream sends so many words so often: enough to be never at rest, too little to be in others' way.
const (
	streamWords = 512
	streamEvery = 2 * time.Millisecond
)

// stream sends numbers without end over one connection, and looks whether they come back in order.
type stream struct {
	url     string
	timeout time.Duration
	open    sync.Once

	mu             sync.Mutex // guards all below
	conn           io.Closer
	host           string // the task
	sent, returned uint64 // numbers
	failed         error
	news           chan struct{} // closed, and replaced, when one of returned and failed changed
}

func newStream(url string, timeout time.Duration) *stream {
	return &stream{url: url, timeout: timeout, news: make(chan struct{})}
}

// call waits until what is sent now has come back.
func (s *stream) call(ctx context.Context) (string, error) {
	s.open.Do(s.connect)
	s.mu.Lock()
	want := s.sent + 1
	s.mu.Unlock()
	for {
		s.mu.Lock()
		host, returned, failed, news := s.host, s.returned, s.failed, s.news
		s.mu.Unlock()
		switch {
		case failed != nil:
			return "", fmt.Errorf("broke %s: %w", host, failed)
		case returned >= want:
			return host, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("of what %s was sent only %d of %d words came back: %w", host, returned, want, ctx.Err())
		case <-news:
		}
	}
}

// connect begins the stream; its goroutines end when it breaks, or with the process.
func (s *stream) connect() {
	conn, host, err := s.dial()
	s.mu.Lock()
	s.conn, s.host = conn, host
	s.mu.Unlock()
	if err != nil {
		s.note(0, err)
		return
	}
	go func() { s.note(0, s.send(conn)) }()
	go func() { s.note(0, s.receive(conn)) }()
}

func (s *stream) dial() (conn io.ReadWriteCloser, host string, err error) {
	req, err := http.NewRequest(http.MethodGet, s.url, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", streamProtocol)
	dialer := net.Dialer{Timeout: s.timeout}
	resp, err := (&http.Transport{DialContext: dialer.DialContext, ResponseHeaderTimeout: s.timeout}).RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		resp.Body.Close()
		return nil, "", fmt.Errorf("%s: %s", s.url, resp.Status)
	}
	return conn, resp.Header.Get(hostHeader), nil
}

// note keeps the first failure.
func (s *stream) note(returned uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.returned = max(s.returned, returned)
	s.failed = errors.Join(s.failed, err)
	close(s.news)
	s.news = make(chan struct{})
}

func (s *stream) send(conn io.Writer) error {
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	words := make([]byte, 0, 8*streamWords)
	for next := uint64(1); ; <-tick.C {
		for words = words[:0]; len(words) < cap(words); next++ {
			words = binary.BigEndian.AppendUint64(words, next)
		}
		s.mu.Lock()
		s.sent = next - 1
		s.mu.Unlock()
		if _, err := conn.Write(words); err != nil {
			return err
		}
	}
}

func (s *stream) receive(conn io.Reader) error {
	in := bufio.NewReaderSize(conn, 8*streamWords)
	word := make([]byte, 8)
	for want := uint64(1); ; want++ {
		if _, err := io.ReadFull(in, word); err != nil {
			return err
		}
		if got := binary.BigEndian.Uint64(word); got != want {
			return fmt.Errorf("word %d came back as %d", want, got)
		}
		if in.Buffered() < len(word) {
			s.note(want, nil)
		}
	}
}
