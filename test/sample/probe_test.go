package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// A probe keeps its beat while answers are late, and waits for them in the end.
func TestBeat(t *testing.T) {
	var started, ended atomic.Int32
	release := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	beat(ctx, time.Millisecond, time.Minute, func(context.Context) (string, error) {
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
