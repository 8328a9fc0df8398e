package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// lockedBuffer may be read while a server writes.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.Reset()
	return b.String()
}

func TestAuditLog(t *testing.T) {
	r := newRig(t)
	var log lockedBuffer
	server := New(Config{Node: r.node, Engine: r.engine.socket, Audit: &log})
	socket := filepath.Join(t.TempDir(), "audited.sock")
	serve(t, socket, server.Serve)
	client := clientOf(socket)
	for _, c := range []struct {
		method, path, body string
		want               entry
	}{
		{"GET", "/services", "", entry{}},
		{"HEAD", "/_ping", "", entry{}},
		{"POST", "/v1.41/secrets/create", `{"Name":"pw","Data":"c2VjcmV0"}`, entry{Path: "/secrets/create", Name: "pw", Status: 201}},
		{"DELETE", "/secrets/nope", "", entry{Path: "/secrets/nope", Status: 404, Error: "secret nope not found"}},
		{"POST", "/v1.41/containers/create?name=c9", `{"Env":["A=c2VjcmV0"]}`, entry{Path: "/containers/create", Name: "c9", Status: 201}},
		{"POST", "/v1.41/nonsense", "", entry{Path: "/nonsense", Status: 404, Error: "page not found"}},
		{"POST", "/exec/e1/start", "hello", entry{Path: "/exec/e1/start", Status: 101}},
	} {
		req, err := http.NewRequest(c.method, "http://meshd"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.want.Status == http.StatusSwitchingProtocols {
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "tcp")
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		client.CloseIdleConnections()
		text := log.take()
		for deadline := time.Now().Add(time.Minute); c.want.Path != "" && text == "" && time.Now().Before(deadline); {
			text = log.take() // it is written when the answer has ended
		}
		if c.want.Path == "" {
			if text != "" {
				t.Errorf("%s %s is in the log: %s", c.method, c.path, text)
			}
			continue
		}
		var got entry
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if strings.Contains(text, "c2VjcmV0") || got.Method != c.method || got.Path != c.want.Path || got.Name != c.want.Name || got.Status != c.want.Status || got.Error != c.want.Error {
			t.Errorf("%s %s: %s, want %+v", c.method, c.path, text, c.want)
		}
		if got.Who.UID == nil || *got.Who.UID != uint32(os.Getuid()) || got.Who.PID != int32(os.Getpid()) || got.Who.Cluster {
			t.Errorf("%s %s: who: %s", c.method, c.path, text)
		}
	}
}
