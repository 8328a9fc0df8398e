package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/meshd/meshd/certs"
	"github.com/meshd/meshd/certs/certstest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type rig struct {
	ca      *certs.CA
	server  *Server
	addr    string
	worker  *Client
	manager *Client
	keeper  *certs.Keeper
	end     func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	ca, err := certs.NewCA()
	must(t, err)
	r := &rig{ca: ca, keeper: certstest.Keeper(t, ca, t.TempDir(), "m1", certs.RoleManager)}
	r.server = NewServer(Config{Keeper: r.keeper})
	must(t, r.server.Listen("127.0.0.1:0"))
	r.addr = r.server.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.server.Serve(ctx) }()
	r.worker = NewClient(certstest.Keeper(t, ca, t.TempDir(), "w1", certs.RoleWorker))
	r.manager = NewClient(certstest.Keeper(t, ca, t.TempDir(), "m2", certs.RoleManager))
	var ended atomic.Bool
	r.end = func() {
		if ended.Swap(true) {
			return
		}
		cancel()
		select {
		case err := <-done:
			must(t, err)
		case <-time.After(time.Minute):
			t.Error("the server does not end")
		}
		r.worker.Close()
		r.manager.Close()
	}
	t.Cleanup(r.end)
	return r
}

type note struct{ Text string }

func TestCall(t *testing.T) {
	r := newRig(t)
	r.server.Handle("/echo", func(w http.ResponseWriter, req *http.Request) {
		var in note
		if err := Read(req, &in); err != nil {
			Fail(w, err)
			return
		}
		Reply(w, note{Peer(req.Context()).NodeID + " says " + in.Text})
	}, certs.RoleWorker)
	var out note
	must(t, r.worker.Call(t.Context(), r.addr, "/echo", note{"hello"}, &out))
	if out.Text != "w1 says hello" {
		t.Error(out.Text)
	}
	if err := r.manager.Call(t.Context(), r.addr, "/echo", nil, nil); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a role that is not admitted: %v", err)
	}
	text, err := certs.NewToken(r.ca.CertPEM())
	must(t, err)
	token, err := certs.ParseToken(text)
	must(t, err)
	anyone := NewJoinClient(token)
	defer anyone.Close()
	if err := anyone.Call(t.Context(), r.addr, "/echo", nil, nil); !errdefs.IsUnauthorized(err) {
		t.Errorf("without a certificate: %v", err)
	}
	r.server.Handle("/open", func(w http.ResponseWriter, req *http.Request) {
		if id := Peer(req.Context()); id != (certs.Identity{}) {
			t.Errorf("an unknown caller is %+v", id)
		}
		Reply(w, nil)
	})
	must(t, anyone.Call(t.Context(), r.addr, "/open", nil, nil))
	if err := r.worker.Call(t.Context(), r.addr, "/nowhere", nil, nil); !errdefs.IsNotImplemented(err) {
		t.Errorf("an unknown path: %v", err)
	}
	big := note{strings.Repeat("x", maxBody)}
	if err := r.worker.Call(t.Context(), r.addr, "/echo", big, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a body that is too large: %v", err)
	}
	// A node that is removed while its connection lives.
	r.server.Refuse(func(id string) bool { return id == "w1" })
	if err := r.worker.Call(t.Context(), r.addr, "/echo", nil, nil); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a removed node: %v", err)
	}
}

func TestErrorsKeepTheirClass(t *testing.T) {
	r := newRig(t)
	var fail error
	r.server.Handle("/fail", func(w http.ResponseWriter, _ *http.Request) { Fail(w, fail) })
	for _, c := range classes() {
		if c.name == "unknown" {
			continue
		}
		fail = c.make("the text of " + c.name)
		err := r.worker.Call(t.Context(), r.addr, "/fail", nil, nil)
		if err == nil || !c.is(err) || err.Error() != fail.Error() {
			t.Errorf("%s came as %v", c.name, err)
		}
		if got := classOf(err).name; got != c.name {
			t.Errorf("%s came as %s", c.name, got)
		}
	}
	fail = fmt.Errorf("wrapped: %w", errdefs.ErrNotFound)
	if err := r.worker.Call(t.Context(), r.addr, "/fail", nil, nil); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	r.server.Handle("/panic", func(http.ResponseWriter, *http.Request) { panic("oh") })
	err := r.worker.Call(t.Context(), r.addr, "/panic", nil, nil)
	if err == nil || err.Error() != "internal error in /panic" {
		t.Errorf("a panic came as %v", err)
	}
}

func TestStream(t *testing.T) {
	r := newRig(t)
	gone := make(chan struct{})
	r.server.Handle("/count", func(w http.ResponseWriter, req *http.Request) {
		var in note
		_ = Read(req, &in) // before the stream, whose receiver may be gone any time
		s := NewSender(w)
		if in.Text == "stay" {
			defer close(gone) // the receiver may go between any two messages
		}
		for i := range 3 {
			if s.Send(note{fmt.Sprint(i)}) != nil {
				return
			}
		}
		if in.Text == "stay" {
			<-req.Context().Done()
		}
	})
	s, err := r.worker.Open(t.Context(), r.addr, "/count", nil)
	must(t, err)
	for i := range 3 {
		var n note
		must(t, s.Next(&n))
		if n.Text != fmt.Sprint(i) {
			t.Errorf("message %d is %q", i, n.Text)
		}
	}
	if err := s.Next(&note{}); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	must(t, s.Close())
	s, err = r.worker.Open(t.Context(), r.addr, "/count", note{"stay"})
	must(t, err)
	must(t, s.Next(&note{}))
	s.Close()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("the handler was not told that the receiver is gone")
	}
}

func TestServerEndsWhileStreamsAreOpen(t *testing.T) {
	r := newRig(t)
	r.server.Handle("/wait", func(w http.ResponseWriter, req *http.Request) {
		NewSender(w).Send(note{"here"})
		<-req.Context().Done()
	})
	s, err := r.worker.Open(t.Context(), r.addr, "/wait", nil)
	must(t, err)
	must(t, s.Next(&note{}))
	r.end()
	if err := s.Next(&note{}); err == nil {
		t.Error("the stream goes on")
	}
	s.Close()
	if err := r.worker.Call(t.Context(), r.addr, "/wait", nil, nil); !errdefs.IsUnavailable(err) || !errors.Is(err, ErrNotSent) {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestPour has messages arrive in order; both sides notice the other's end.
func TestPour(t *testing.T) {
	r := newRig(t)
	got, ended := make(chan note), make(chan error, 1)
	r.server.Handle("/pour", func(w http.ResponseWriter, req *http.Request) {
		s, err := Take(w, req)
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		for {
			var n note
			if err := s.Next(&n); err != nil {
				ended <- err
				return
			}
			got <- n
		}
	}, certs.RoleWorker)
	if _, err := r.manager.Pour(t.Context(), r.addr, "/pour"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a manager may pour: %v", err)
	}
	s, err := r.worker.Pour(t.Context(), r.addr, "/pour")
	must(t, err)
	for _, text := range []string{"one", "two", "three"} {
		must(t, s.Send(note{text}))
		if n := <-got; n.Text != text {
			t.Errorf("got %q, want %q", n.Text, text)
		}
	}
	s.Close()
	if err := <-ended; err == nil {
		t.Error("the stream goes on without its sender")
	}
	if err := s.Send(note{"late"}); err == nil {
		t.Error("sent after the end")
	}

	s, err = r.worker.Pour(t.Context(), r.addr, "/pour")
	must(t, err)
	defer s.Close()
	must(t, s.Send(note{"more"}))
	<-got
	r.end()
	if err := <-ended; err == nil {
		t.Error("the stream outlives the server")
	}
	deadline := time.Now().Add(time.Minute)
	for s.Send(note{"into the void"}) == nil {
		if time.Now().After(deadline) {
			t.Fatal("the sender does not notice the server's end")
		}
	}
}

// A node that is cut off without a word: nothing more comes from it.
func TestSilentConnectionIsNoticed(t *testing.T) {
	r := newRig(t)
	r.server.Handle("/wait", func(w http.ResponseWriter, req *http.Request) {
		NewSender(w).Send(note{"here"})
		<-req.Context().Done()
	})
	cut := newCut(t, r.addr)
	s, err := r.worker.Open(t.Context(), cut.addr, "/wait", nil)
	must(t, err)
	defer s.Close()
	must(t, s.Next(&note{}))
	cut.mute.Store(true)
	begun := time.Now()
	err = s.Next(&note{})
	if took := time.Since(begun); !errdefs.IsUnavailable(err) || took > time.Minute {
		t.Errorf("noticed after %v as %v", took, err)
	}
}

// cut is a wire that can fall silent.
type cut struct {
	addr string
	mute atomic.Bool
}

func newCut(t *testing.T, to string) *cut {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	c := &cut{addr: l.Addr().String()}
	go func() {
		a, err := l.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", to)
		if err != nil {
			a.Close()
			return
		}
		t.Cleanup(func() { a.Close(); b.Close() })
		go c.pass(a, b)
		go c.pass(b, a)
	}()
	return c
}

func (c *cut) pass(dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		if !c.mute.Load() {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

func TestRaftStream(t *testing.T) {
	r := newRig(t)
	go func() {
		for {
			c, err := r.server.Raft().Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	c, id, err := r.manager.DialRaft(t.Context(), r.addr)
	must(t, err)
	if id.NodeID != "m1" {
		t.Errorf("%+v answers", id)
	}
	_, err = c.Write([]byte("raft"))
	must(t, err)
	got := make([]byte, 4)
	_, err = io.ReadFull(c, got)
	must(t, err)
	if !bytes.Equal(got, []byte("raft")) {
		t.Errorf("%q", got)
	}
	w, _, err := r.worker.DialRaft(t.Context(), r.addr)
	if err == nil { // the refusal comes after the handshake
		w.SetDeadline(time.Now().Add(time.Minute))
		w.Write([]byte("raft"))
		if _, err = w.Read(got); err == nil {
			t.Error("a worker speaks raft")
		}
		w.Close()
	}
	r.end() // closes c, too
	if _, err := c.Read(got); err == nil {
		t.Error("the raft stream outlives the server")
	}
	c.Close()
}

func TestForeignManager(t *testing.T) {
	r, other := newRig(t), newRig(t)
	err := r.worker.Call(t.Context(), other.addr, "/x", nil, nil)
	if !errors.Is(err, certs.ErrForeign) || !strings.Contains(err.Error(), other.addr) {
		t.Errorf("a manager of another cluster: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := &http.Server{}
	go srv.Serve(l)
	defer srv.Close()
	if err := r.worker.Call(t.Context(), l.Addr().String(), "/x", nil, nil); !errdefs.IsUnavailable(err) {
		t.Errorf("a web server: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.worker.Call(ctx, r.addr, "/x", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was given up: %v", err)
	}
}

func TestClientUsesTheNewCertificate(t *testing.T) {
	r := newRig(t)
	r.server.Handle("/who", func(w http.ResponseWriter, req *http.Request) {
		Reply(w, note{string(Peer(req.Context()).Role)})
	}, certs.RoleManager, certs.RoleWorker)
	k := certstest.Keeper(t, r.ca, t.TempDir(), "n", certs.RoleWorker)
	c := NewClient(k)
	defer c.Close()
	var out note
	must(t, c.Call(t.Context(), r.addr, "/who", nil, &out))
	key, csr, err := certs.NewRequest()
	must(t, err)
	cert, err := r.ca.Sign(csr, certs.Identity{NodeID: "n", ClusterID: "c", Role: certs.RoleManager}, 0)
	must(t, err)
	must(t, k.Replace(key, cert, r.ca.CertPEM()))
	must(t, c.Call(t.Context(), r.addr, "/who", nil, &out))
	if out.Text != string(certs.RoleManager) {
		t.Errorf("after the promotion the server sees a %s", out.Text)
	}
}
