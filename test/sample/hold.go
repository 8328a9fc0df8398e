package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
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

// flow sends numbered datagrams from one socket, one after the other, and wants the answer to each from the same task.
type flow struct {
	address string

	mu   sync.Mutex // guards all below
	conn net.Conn
	host string
	sent int
}

func (f *flow) call(ctx context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	end, _ := ctx.Deadline()
	if err := ctx.Err(); err != nil {
		return "", errors.New("not begun: the datagram before took too long")
	}
	if err := f.dial(ctx); err != nil {
		return "", err
	}
	f.sent++
	if _, err := f.conn.Write(strconv.AppendInt(nil, int64(f.sent), 10)); err != nil {
		return "", fmt.Errorf("send datagram %d: %w", f.sent, err)
	}
	host, err := f.answer(end)
	switch {
	case err != nil:
		return "", fmt.Errorf("datagram %d was lost: %w", f.sent, err)
	case f.host != "" && host != f.host:
		return "", fmt.Errorf("broke %s: datagram %d went to %s", f.host, f.sent, host)
	}
	f.host = host
	return host, nil
}

func (f *flow) dial(ctx context.Context) error {
	if f.conn != nil {
		return nil
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", f.address)
	if err == nil {
		f.conn = conn
	}
	return err
}

// answer waits for the newest datagram's answer; those to earlier ones are late.
func (f *flow) answer(until time.Time) (host string, err error) {
	if err := f.conn.SetReadDeadline(until); err != nil {
		return "", err
	}
	buffer := make([]byte, 1500)
	for {
		n, err := f.conn.Read(buffer)
		if err != nil {
			return "", err
		}
		if words := strings.Fields(string(buffer[:n])); len(words) == 3 && words[2] == strconv.Itoa(f.sent) {
			return words[0], nil
		}
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
