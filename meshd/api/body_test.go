package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestBodyThatDoesNotCome: a refusal does not wait for a body for ever that it has no use for.
func TestBodyThatDoesNotCome(t *testing.T) {
	r := newRig(t)
	s := New(Config{Node: r.node, Engine: r.engine.socket})
	s.bodyTime = 10 * time.Millisecond
	socket := t.TempDir() + "/s"
	serve(t, socket, s.Serve)
	r.node.become("active", nil)
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(conn, "POST /secrets/create HTTP/1.1\r\nHost: d\r\nContent-Length: 100\r\n\r\n{")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("got %v, %v", res, err)
	}
	_ = res.Body.Close()
}

func TestSizesAreBounded(t *testing.T) {
	r := newRig(t)
	r.do("POST", "/secrets/create", strings.Repeat(" ", maxBody+1)).want(413, "larger than")
	r.do("POST", "/networks/create", strings.Repeat(" ", maxBody+1)).want(413, "larger than")
	r.do("POST", "/containers/create", strings.Repeat(" ", maxBody+1)).want(413, "larger than")
	if a := r.do("GET", "/services", nil, "X-Registry-Auth", strings.Repeat("a", 2*maxHeaders)); a.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("headers without end: %d", a.status)
	}
	r.do("POST", "/services/create", webSpec, "X-Registry-Auth", strings.Repeat("a", maxHeaders/2)).want(400, "X-Registry-Auth")
	if a := r.do("POST", "/containers/create", fmt.Sprintf(`{"Image":%q}`, strings.Repeat("i", maxBody/2))); a.status != http.StatusCreated {
		t.Errorf("half of what is allowed: %d", a.status)
	}
}
