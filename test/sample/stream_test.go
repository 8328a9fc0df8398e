package main

import (
	"context"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A stream's calls succeed as long as all comes back, and fail for good once its connection is gone.
func TestStream(t *testing.T) {
	s := httptest.NewServer(newHandler())
	defer s.Close()
	st := newStream(s.URL+"/echo", time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var host string
	for range 10 {
		var err error
		if host, err = st.call(ctx); err != nil || host == "" {
			t.Fatalf("got %q, %v, want this machine's name", host, err)
		}
	}
	st.mu.Lock()
	conn := st.conn
	st.mu.Unlock()
	conn.Close()
	for {
		_, err := st.call(ctx)
		if err == nil {
			continue // sent before the end
		}
		if !strings.HasPrefix(err.Error(), "broke "+host+": ") {
			t.Errorf("got %v", err)
		}
		return
	}
}

// A stream that loses or changes something says what.
func TestStreamOutOfOrder(t *testing.T) {
	st := newStream("", time.Minute)
	if err := st.receive(strings.NewReader("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x03")); err == nil || !strings.Contains(err.Error(), "word 2 came back as 3") {
		t.Errorf("got %v", err)
	}
}

// A flow skips late answers, and tells of lost datagrams and of another task's answers.
func TestFlow(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	answer := func(texts ...string) {
		buffer := make([]byte, 100)
		_, from, err := server.ReadFrom(buffer)
		for _, text := range texts {
			if err == nil {
				_, err = server.WriteTo([]byte(text), from)
			}
		}
		if err != nil {
			t.Error(err)
		}
	}
	f := flow{address: server.LocalAddr().String()}
	for _, c := range []struct {
		answers []string
		timeout time.Duration
		want    string
	}{
		{[]string{"a x 1"}, time.Minute, ""},
		{nil, time.Second, "datagram 2 was lost"},
		{[]string{"a x 2", "a x 3"}, time.Minute, ""},
		{[]string{"b x 4"}, time.Minute, "broke a: datagram 4 went to b"},
	} {
		done := make(chan struct{})
		go func() { defer close(done); answer(c.answers...) }()
		ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
		host, err := f.call(ctx)
		cancel()
		<-done
		if c.want == "" && (err != nil || host != "a") || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("got %q, %v, want %q", host, err, c.want)
		}
	}
}

// Idle connections are called in the beginning and in the end.
func TestIdle(t *testing.T) {
	s := httptest.NewServer(newHandler())
	defer s.Close()
	h := newHolder(s.URL+"/", time.Minute, 3)
	r := reporter{timeout: time.Minute}
	for range 2 {
		r.round(3, h.call)
		for i, c := range h.held {
			if c.host == "" {
				t.Errorf("connection %d was not called", i)
			}
		}
	}
}
