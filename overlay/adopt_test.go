package overlay

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stream sends small datagrams from one container to another's echo server
// until stopped, and counts those that do not come back.
type stream struct {
	sent, lost atomic.Int64
	stop, done chan struct{}
}

func (l *lab) stream(ns, to string) *stream {
	l.t.Helper()
	c, err := dial(ns, "udp4", to+":7", patience)
	l.check(err)
	s := &stream{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer c.Close()
		s.run(c)
	}()
	return s
}

func (s *stream) run(c net.Conn) {
	buf := make([]byte, 64)
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		s.sent.Add(1)
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write(buf[:8]); err != nil {
			s.lost.Add(1)
		} else if _, err := c.Read(buf); err != nil {
			s.lost.Add(1)
		}
	}
}

func (s *stream) end() {
	close(s.stop)
	<-s.done
}

func (s *stream) progress(l *lab, n int64) {
	l.t.Helper()
	from := s.sent.Load()
	l.eventually("traffic goes on", func() bool { return s.sent.Load() > from+n })
}

func TestTrafficOutlivesTheProcess(t *testing.T) {
	for name, env := range everyWay() {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 2, env...)
			a := l.nodes[0].container().join(userNetwork(1), "10.0.1.2").join(meshNetwork(), "10.255.0.2")
			b := l.nodes[1].container().join(userNetwork(1), "10.0.1.3")
			l.settle(a, b)
			l.echo(b.ns)
			l.echo(l.nodes[0].ns)
			across, down := l.stream(a.ns, "10.0.1.3"), l.stream(a.ns, "10.255.0.1")
			for range 3 {
				for _, n := range l.nodes {
					n.kill()
				}
				across.progress(l, 50)
				for _, n := range l.nodes {
					n.start() // no state yet: what is there stays
				}
				across.progress(l, 50)
				down.progress(l, 50)
				l.settle(a, b)
				across.progress(l, 50)
			}
			across.end()
			down.end()
			for what, s := range map[string]*stream{"to the other node": across, "to the gateway": down} {
				if s.lost.Load() > 0 {
					t.Errorf("%s: %d of %d datagrams lost", what, s.lost.Load(), s.sent.Load())
				}
			}
			got := l.nodes[0].ask(request{Op: "attachments"}).Attachments
			if len(got) != 2 || got[0].ID == got[1].ID || got[0].VNI+got[1].VNI != 4096+4097 {
				t.Errorf("adopted attachments: %+v", got)
			}
		})
	}
}

func TestContainersComeAndGoBeforeTheStateIsKnown(t *testing.T) {
	onEachDriver(t, testContainersComeAndGoBeforeTheStateIsKnown)
}

func testContainersComeAndGoBeforeTheStateIsKnown(t *testing.T, d Driver, env ...string) {
	l := newLab(t, 2, env...)
	n := l.nodes[0]
	a := n.container().join(userNetwork(1), "10.0.1.2")
	b := l.nodes[1].container().join(userNetwork(1), "10.0.1.3")
	l.settle(a, b)
	n.kill()
	n.start()
	c := n.container().join(userNetwork(1), "10.0.1.4")
	l.pings(c.ns, "10.0.1.2")
	l.pings(a.ns, "10.0.1.3")
	n.ask(request{Op: "detach", ID: a.attach[0].ID})
	l.pingsNot(c.ns, "10.0.1.2")
	l.nodes[1].ask(request{Op: "set", State: l.stateOf(l.nodes[1], []*container{b, c})})
	l.pings(c.ns, "10.0.1.3")
}

func TestTheRunDirIsABPFFilesystem(t *testing.T) {
	l := newLab(t, 1)
	var fs unix.Statfs_t
	l.check(unix.Statfs(filepath.Dir(HooksPath(l.nodes[0].dir)), &fs))
	if fs.Type != unix.BPF_FS_MAGIC {
		t.Errorf("type %x", fs.Type)
	}
	if _, err := os.Stat(HooksPath(l.nodes[0].dir)); err != nil {
		t.Error(err)
	}
	if !strings.HasSuffix(HooksPath("/run/meshd"), "/bpf/mesh_hooks") {
		t.Error(HooksPath("/run/meshd"))
	}
}
