package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// peer is who asks: a process of this machine, the holder of a client certificate,
// or another node of the cluster.
type peer struct {
	UID *uint32 `json:"uid,omitempty"`
	PID int32   `json:"pid,omitempty"`
	// Name is the client certificate's common name.
	Name string `json:"name,omitempty"`
	// Addr is where a request over TCP came from.
	Addr string `json:"addr,omitempty"`
	// Cluster: a manager asks through this node's tunnel.
	Cluster bool `json:"cluster,omitempty"`
}

type peerKey struct{}

// withPeer keeps what the kernel says of the process at the other end of a unix
// socket (SO_PEERCRED, unix(7)): as it was when it connected.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	sc, ok := c.(*net.UnixConn)
	if !ok {
		return context.WithValue(ctx, peerKey{}, peer{Addr: c.RemoteAddr().String()})
	}
	var p peer
	if raw, err := sc.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // nothing known is what stays if it fails
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				p.UID, p.PID = &cred.Uid, cred.Pid
			}
		})
	}
	return context.WithValue(ctx, peerKey{}, p)
}

func peerOf(r *http.Request) peer {
	p, ok := r.Context().Value(peerKey{}).(peer)
	p.Cluster = !ok
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		p.Name = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	return p
}

// auditor writes one JSON line for each request that may change something, when
// it has ended: who, what, and how it ended. Neither bodies nor queries are in it,
// which may hold secrets, but for the name of what is made.
type auditor struct {
	mu  sync.Mutex
	out io.Writer
	log *slog.Logger
}

// entry is a line of the audit log.
type entry struct {
	Time time.Time `json:"time"` // when it began
	Who  peer      `json:"who"`
	// Request is its ID, which the log and the client have, too.
	Request string `json:"request"`
	Method  string `json:"method"`
	Path    string `json:"path"` // without the API's version
	Name    string `json:"name,omitempty"`
	Status  int    `json:"status"`
	// Error is what the client was told.
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

// writes says that a request may change something; attaching over a websocket is
// the one kind of GET that may.
func writes(r *http.Request) bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions ||
		strings.HasSuffix(r.URL.Path, "/attach/ws")
}

// watch lets serve answer the request, and writes the line. A nil auditor only serves.
func (a *auditor) watch(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
	if a == nil || !writes(r) {
		serve(w, r)
		return
	}
	_, path, _ := splitVersion(r.URL.Path)
	e := entry{Time: time.Now().UTC(), Who: peerOf(r), Request: w.Header().Get(requestID), Method: r.Method, Path: path, Name: r.URL.Query().Get("name")}
	body := &head{ReadCloser: r.Body}
	if e.Name == "" && strings.HasSuffix(path, "/create") {
		r.Body = body
	}
	answer := &answered{ResponseWriter: w, status: http.StatusOK}
	defer func() {
		var made struct{ Name string }
		if json.Unmarshal(body.seen.Bytes(), &made) == nil && made.Name != "" {
			e.Name = made.Name
		}
		e.Status, e.Seconds = answer.status, time.Since(e.Time).Seconds()
		if e.Status >= http.StatusBadRequest {
			e.Error = answer.message()
		}
		a.write(e)
	}()
	serve(answer, r)
}

func (a *auditor) write(e entry) {
	line, err := json.Marshal(e)
	if err == nil {
		a.mu.Lock()
		_, err = a.out.Write(append(line, '\n'))
		a.mu.Unlock()
	}
	if err != nil {
		a.log.Error("a request is not in the audit log", "method", e.Method, "path", e.Path, "error", err)
	}
}

// headLimit bounds what is kept of a body, in bytes.
const headLimit = 1 << 20

// head keeps the beginning of a body that somebody reads.
type head struct {
	io.ReadCloser
	seen bytes.Buffer
}

func (h *head) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	h.seen.Write(p[:min(n, headLimit-h.seen.Len())])
	return n, err
}

// answered notes how a request was answered.
type answered struct {
	http.ResponseWriter
	status int
	text   bytes.Buffer
}

// Unwrap implements what http.ResponseController looks for.
func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Hijack implements http.Hijacker: the connection is another protocol's from here on.
func (a *answered) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a.status = http.StatusSwitchingProtocols
	return http.NewResponseController(a.ResponseWriter).Hijack()
}

// WriteHeader implements http.ResponseWriter.
func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answered) Write(p []byte) (int, error) {
	if a.status >= http.StatusBadRequest {
		a.text.Write(p[:min(len(p), headLimit-a.text.Len())])
	}
	return a.ResponseWriter.Write(p)
}

// message is an error's text; the API's errors are all of one form.
func (a *answered) message() string {
	var m struct{ Message string }
	_ = json.Unmarshal(a.text.Bytes(), &m) // no message then
	return m.Message
}
