package main

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
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

func TestBenchLookups(t *testing.T) {
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	server := &dns.Server{PacketConn: socket, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, asked *dns.Msg) {
		answer := new(dns.Msg).SetReply(asked)
		if asked.Question[0].Name == "web." {
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "web.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 1)}}
		}
		_ = w.WriteMsg(answer) // the client's to complain about
	})}
	go server.ActivateAndServe() // ends with the test
	<-started
	defer server.Shutdown()
	ask := func(name string) (int, error) {
		return lookupAt(t.Context(), socket.LocalAddr().String(), name, time.Now().Add(50*time.Millisecond))
	}
	if n, err := ask("web"); err != nil || n == 0 {
		t.Errorf("%d answers, %v", n, err)
	}
	if n, err := ask("nobody"); err == nil {
		t.Errorf("%d answers without an address count", n)
	}
}
