package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A probe keeps its beat while answers are late, and waits for them in the end.
func TestBeat(t *testing.T) {
	var started, ended atomic.Int32
	release := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	(&reporter{timeout: time.Minute}).beat(ctx, time.Millisecond, func(context.Context) (string, error) {
		if started.Add(1) == 5 { // though none has ended
			cancel()
			close(release)
		}
		<-release
		ended.Add(1)
		return "", nil
	})
	if n := started.Load(); n < 5 || n != ended.Load() {
		t.Errorf("%d calls began, %d ended", n, ended.Load())
	}
}

func TestCallOnce(t *testing.T) {
	s := httptest.NewServer(newHandler())
	defer s.Close()
	name, err := callOnce(5*time.Second, s.URL+"/")(t.Context())
	if err != nil || name == "" {
		t.Errorf("got %q, %v, want this machine's name", name, err)
	}
	refusing := httptest.NewServer(http.NotFoundHandler())
	defer refusing.Close()
	if _, err := callOnce(5*time.Second, refusing.URL+"/")(t.Context()); err == nil {
		t.Error("an answer of 404 counts as success")
	}
}

// Held connections are used again; one that its server ended is told with the name of who had it.
func TestHolder(t *testing.T) {
	s := httptest.NewServer(newHandler())
	defer s.Close()
	h := newHolder(s.URL+"/", 5*time.Second, 2)
	host := ""
	for range 6 {
		name, err := h.call(t.Context())
		if err != nil || name == "" {
			t.Fatalf("got %q, %v, want this machine's name", name, err)
		}
		host = name
	}
	s.CloseClientConnections()
	for range 2 {
		if _, err := h.call(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "broke "+host+": ") {
			t.Errorf("a connection that was ended: %v", err)
		}
	}
	for range 2 {
		if _, err := h.call(t.Context()); err != nil {
			t.Errorf("after that: %v", err)
		}
	}
}

// The first datagram is lost, the second is answered.
func TestDatagramTo(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		buffer := make([]byte, 100)
		for n := 1; ; n++ {
			_, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if n > 1 {
				conn.WriteTo([]byte("host1 and more"), from)
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if name, err := datagramTo(conn.LocalAddr().String())(ctx); err != nil || name != "host1" {
		t.Errorf("got %q, %v", name, err)
	}
}
