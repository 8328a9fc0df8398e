package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestServerSaysWhoCalled(t *testing.T) {
	server := httptest.NewServer(newHandler())
	defer server.Close()
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a Answer
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	if a.Client != "127.0.0.1" || a.Port == 0 || a.Local != server.Listener.Addr().String() || a.Hostname == "" {
		t.Errorf("answer %+v", a)
	}
}

func TestPick(t *testing.T) {
	got, err := pick([]byte(`{"client":"192.0.2.1","port":7}`), "client")
	if err != nil || string(got) != "192.0.2.1\n" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := pick([]byte(`{}`), "client"); err == nil {
		t.Error("a missing field was accepted")
	}
}

func TestHealthTurns(t *testing.T) {
	handler := newHandler()
	status := func(method, path string) int {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code
	}
	for _, step := range []struct {
		method, path string
		want         int
	}{{"GET", "/healthz", 200}, {"POST", "/sick", 200}, {"GET", "/healthz", 503}, {"POST", "/well", 200}, {"GET", "/healthz", 200}} {
		if got := status(step.method, step.path); got != step.want {
			t.Errorf("%s %s: %d, want %d", step.method, step.path, got, step.want)
		}
	}
}

func TestEcho(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- echo(conn) }()
	if err := sendUDP(t.Context(), []string{conn.LocalAddr().String(), "hello"}); err != nil {
		t.Error(err)
	}
	conn.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestCommands(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		args []string
		want error
	}{
		{[]string{"/bin/true"}, nil},
		{[]string{"/bin/false"}, exitStatus(1)},
		{[]string{"sample", "exit", "3"}, exitStatus(3)},
		{[]string{"sleep", "1000"}, nil},
		{[]string{"sample", "sleep"}, nil},
	} {
		if got := run(ended, c.args); !errors.Is(got, c.want) {
			t.Errorf("%v: %v, want %v", c.args, got, c.want)
		}
	}
	if err := run(ended, []string{"sample", "nonsense"}); err == nil {
		t.Error("nonsense was accepted")
	}
}
