package api

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestProxyRewritesTheVersion(t *testing.T) {
	r := newRig(t)
	for path, want := range map[string]string{
		"/v1.51/echo/a%2Fb/c?x=1;2&y=%2F": "/v1.41/echo/a%2Fb/c?x=1;2&y=%2F",
		"/v1.30/echo/x":                   "/v1.30/echo/x",
		"/v1.25/echo/x":                   "/v1.25/echo/x",
		"/echo/x":                         "/echo/x",
	} {
		a := r.do("POST", path, "body").want(201, want)
		if got := strings.Fields(string(a.body)); got[1] != want || got[2] != "4" {
			t.Errorf("%s reached the engine as %v, want %s", path, got, want)
		}
		if got := a.header.Values("Api-Version"); len(got) != 1 || got[0] != "1.52" {
			t.Errorf("the answer to %s names version %v", path, got)
		}
	}
	r.do("GET", "/version", nil).want(200, "1.25")
	r.do("GET", "/v1.99/containers/json", nil).want(400, "client version 1.99 is too new. Maximum supported API version is 1.52")
	r.do("GET", "/v1.24/services", nil).want(400, "client version 1.24 is too old. Minimum supported API version is 1.25, please upgrade your client to a newer version")
	r.do("GET", "/v1.41/unknown", nil).want(404, "page not found")
	r.do("PUT", "/v1.41/services/web", nil).want(404, "page not found")
	r.do("GET", "/swarm/unknown", nil).want(404, "page not found")
	for _, seen := range r.engine.requests() {
		if strings.Contains(seen, "/services") || strings.Contains(seen, "/swarm") {
			t.Errorf("the engine's own swarm mode was asked: %s", seen)
		}
	}
}

func TestProxyCarriesAnUpload(t *testing.T) {
	r := newRig(t)
	const size = 8 << 20
	req, _ := http.NewRequest("PUT", "http://docker/v1.51/echo/upload", io.LimitReader(zeros{}, size)) // chunked
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); string(body) != "PUT /v1.41/echo/upload 8388608" {
		t.Fatalf("the engine got %q", body)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestProxyCarriesAnUpgrade talks as "docker exec -i" does: data both ways, the
// client's half closed first.
func TestProxyCarriesAnUpgrade(t *testing.T) {
	r := newRig(t)
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(conn, "POST /v1.51/exec/1/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n")
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v", res, err)
	}
	if line, _ := in.ReadString('\n'); line != "hello\n" {
		t.Fatalf("the engine greets %q", line)
	}
	_, _ = io.WriteString(conn, "how are you")
	_ = conn.(*net.UnixConn).CloseWrite()
	if rest, err := io.ReadAll(in); err != nil || string(rest) != "HOW ARE YOU" {
		t.Fatalf("got %q, %v", rest, err)
	}
}

func TestEngineDown(t *testing.T) {
	r := newRig(t)
	s := New(Config{Node: r.node, Engine: "/nonexistent/docker.sock", Version: "0.1.0"})
	socket := t.TempDir() + "/s"
	serve(t, socket, s.Serve)
	r.client = clientOf(socket)
	r.do("GET", "/v1.41/containers/json", nil).want(503, "Cannot reach this node's Docker Engine at unix:///nonexistent/docker.sock")
	r.do("GET", "/_ping", nil).want(200, "OK")
	r.do("GET", "/v1.41/info", nil).want(200, `"NodeID":"node1id"`)
	r.do("GET", "/v1.41/version", nil).want(200, "meshd")
	r.do("GET", "/v1.41/services", nil).want(200, "[]")
	r.do("GET", "/v1.41/networks", nil).want(200, "ingress")
}

func TestSystem(t *testing.T) {
	r := newRig(t)
	for _, method := range []string{"GET", "HEAD"} {
		a := r.do(method, "/_ping", nil)
		for k, want := range map[string]string{"Api-Version": "1.52", "Swarm": "active/manager", "Builder-Version": "2", "Ostype": "linux", "Docker-Experimental": "false", "Pragma": "no-cache"} {
			if got := a.header.Get(k); got != want {
				t.Errorf("%s /_ping: %s is %q, want %q", method, k, got, want)
			}
		}
	}
	v := decode[object](r.do("GET", "/v1.41/version", nil).want(200, ""))
	if v["ApiVersion"] != "1.52" || v["MinAPIVersion"] != "1.25" || v["Version"] != "20.10.24" || len(v["Components"].([]any)) != 2 {
		t.Errorf("version: %v", v)
	}
	a := r.do("GET", "/info", nil).want(200, "")
	info := decode[object](a)
	sw := info["Swarm"].(map[string]any)
	first := sw["RemoteManagers"].([]any)[0].(map[string]any)
	if info["ID"] != "ENGINE" || sw["ControlAvailable"] != true || sw["Nodes"] != 2.0 || sw["Managers"] != 1.0 || first["NodeID"] != "node1id" {
		t.Errorf("info: %v", info)
	}
	for _, secret := range []string{"secret", "SWMTKN"} {
		if strings.Contains(string(a.body), secret) {
			t.Errorf("info tells %q: %s", secret, a.body)
		}
	}
}

// TestServeEndsStreams: neither an open exec nor an open event stream keeps the
// server from stopping.
func TestServeEndsStreams(t *testing.T) {
	r := newRig(t)
	s := New(Config{Node: r.node, Engine: r.engine.socket, Version: "0.1.0"})
	socket := t.TempDir() + "/s"
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	for _, request := range []string{
		"POST /v1.51/exec/1/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
		"GET /v1.51/events HTTP/1.1\r\nHost: docker\r\n\r\n",
	} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, request)
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 ") {
			t.Fatalf("got %q, %v", line, err)
		}
	}
	stop()
	select {
	case err := <-served:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Serve waits for streams")
	}
	if _, err := net.Dial("unix", socket); err == nil {
		t.Error("the socket still answers")
	}
}

func TestMACForOldEngines(t *testing.T) {
	r := newRig(t)
	r.node.attachErr = errdefs.ErrNotFound // the network is none of the swarm's
	const asked = `{"Image":"i","NetworkingConfig":{"EndpointsConfig":{"n":{"MacAddress":"02:42:00:00:00:01"}}}}`
	for path, want := range map[string]bool{"/v1.51/containers/create?name=a": true, "/v1.43/containers/create": false, "/containers/create": false} {
		r.do("POST", path, asked).want(201, "/containers/create")
		r.engine.mu.Lock()
		got := r.engine.bodies[len(r.engine.bodies)-1]
		r.engine.mu.Unlock()
		if strings.HasSuffix(got, `"MacAddress":"02:42:00:00:00:01","NetworkingConfig":{"EndpointsConfig":{"n":{"MacAddress":"02:42:00:00:00:01"}}}}`) != want {
			t.Errorf("%s reached the engine as %s", path, got)
		}
	}
	for _, body := range []string{``, `{`, `[]`, `{"NetworkingConfig":null}`, `{"NetworkingConfig":{"EndpointsConfig":{"a":{},"b":{}}}}`, `{"NetworkingConfig":{"EndpointsConfig":{"a":null}}}`} {
		if got := string(moveMAC([]byte(body))); got != body {
			t.Errorf("%s became %s", body, got)
		}
	}
}
