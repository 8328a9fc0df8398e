package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestTransfer(t *testing.T) {
	good := httptest.NewServer(newHandler())
	defer good.Close()
	if err := transfer(t.Context(), []string{"-bytes", "100000", good.URL, good.URL}); err != nil {
		t.Error(err)
	}
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 100000)) }))
	defer bad.Close()
	for _, args := range [][]string{{}, {good.URL, "http://127.0.0.1:1"}, {"-bytes", "100000", bad.URL}} {
		if err := transfer(t.Context(), args); err == nil {
			t.Errorf("%v passes", args)
		}
	}
}
