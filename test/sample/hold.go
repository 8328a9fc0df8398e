package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// resend is when a datagram without an answer is sent again, once: a busy machine may lose one.
const resend = 700 * time.Millisecond

// datagramTo asks from a new socket, and returns the first word of the answer: the hostname.
func datagramTo(address string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "udp", address)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		end, _ := ctx.Deadline()
		var failed error
		for _, until := range []time.Time{time.Now().Add(resend), end} {
			if _, err := conn.Write([]byte("probe")); err != nil {
				failed = err // the last one met nobody: this one is told
				continue
			}
			if err := conn.SetReadDeadline(until); err != nil {
				return "", err
			}
			answer := make([]byte, 1500)
			n, err := conn.Read(answer)
			if err == nil {
				name, _, _ := strings.Cut(string(answer[:n]), " ")
				return name, nil
			}
			failed = err
		}
		return "", failed
	}
}

// holder makes calls over connections that it keeps.
type holder struct {
	url  string
	turn atomic.Uint64
	held []*held
}

// held is one connection; its calls follow each other.
type held struct {
	mu     sync.Mutex
	client *http.Client
	// host is the task that the connection leads to; empty: there was none yet.
	host string
}

func newHolder(url string, timeout time.Duration, n int) *holder {
	h := &holder{url: url + "?text"}
	for range n {
		h.held = append(h.held, &held{client: &http.Client{Timeout: timeout, Transport: &http.Transport{MaxConnsPerHost: 1}}})
	}
	return h
}

func (h *holder) call(ctx context.Context) (string, error) {
	c := h.held[h.turn.Add(1)%uint64(len(h.held))]
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return "", errors.New("not begun: the call before on this connection took too long")
	}
	same := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { same = i.Reused }})
	body, err := getOnce(ctx, c.client, h.url)
	was := c.host
	first, _, _ := strings.Cut(string(body), "\n")
	c.host = strings.TrimPrefix(first, "hostname ")
	switch {
	case was != "" && (err != nil || !same):
		return "", fmt.Errorf("broke %s: %w", was, errors.Join(errReplaced, err))
	case err != nil:
		return "", err
	}
	return c.host, nil
}

var errReplaced = errors.New("the connection had ended")
