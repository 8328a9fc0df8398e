package main

import (
	"context"
	"net"
	"testing"
	"time"
)

func TestBench(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- benchServe(ctx, []string{"-listen", addr}) }()
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	for name, run := range map[string]func(context.Context, string, time.Time) (int, error){
		"stream": streamFor, "echo": echoFor, "connect": connectFor,
	} {
		if n, err := run(t.Context(), addr, time.Now().Add(50*time.Millisecond)); err != nil || n == 0 {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	if err := benchClient(t.Context(), []string{"-streams", "8", "-for", "50ms", addr}); err != nil {
		t.Errorf("eight at once: %v", err)
	}
	for _, wrong := range [][]string{{"-mode", "nonsense", addr}, {"-streams", "0", addr}} {
		if err := benchClient(t.Context(), wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the server's end: %v", err)
	}
}
