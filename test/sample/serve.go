package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// drainTime is how long running requests may take after SIGTERM.
const drainTime = 8 * time.Second

// Answer is what GET / gives, as JSON, or as lines of text with ?text.
type Answer struct {
	Hostname  string   `json:"hostname"`
	Version   string   `json:"version"` // $VERSION, of the image
	Client    string   `json:"client"`  // address that the connection came from
	Port      uint16   `json:"port"`    // and its port
	Local     string   `json:"local"`   // address and port that it came to
	Addresses []string `json:"addresses"`
	Env       []string `json:"env"`
}

// serve runs until ctx ends, then finishes what it has begun. SIGUSR1 makes it refuse
// TCP connections, and run on.
func serve(ctx context.Context) error {
	tcp, err := net.Listen("tcp", ":"+cmp.Or(os.Getenv("PORT"), "8080"))
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", ":"+cmp.Or(os.Getenv("UDP_PORT"), "9000"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: newHandler()}
	log.Printf("sample %s serves on %s/tcp and %s/udp", os.Getenv("VERSION"), tcp.Addr(), udp.LocalAddr())
	var group errgroup.Group
	group.Go(func() error { return server.Serve(tcp) })
	group.Go(func() error { return echo(udp) })
	group.Go(func() error {
		deaf := make(chan os.Signal, 1)
		signal.Notify(deaf, syscall.SIGUSR1)
		select {
		case <-deaf:
			log.Print("asked to refuse")
			return tcp.Close()
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error {
		<-ctx.Done()
		log.Print("asked to end")
		drain, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		return errors.Join(server.Shutdown(drain), udp.Close())
	})
	err = group.Wait()
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func newHandler() http.Handler {
	var sick atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		a := answer(r)
		if r.URL.Query().Has("text") {
			fmt.Fprintf(w, "hostname %s\nversion %s\nclient %s\nport %d\nlocal %s\naddresses %s\n",
				a.Hostname, a.Version, a.Client, a.Port, a.Local, strings.Join(a.Addresses, " "))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a) // the caller went away if this fails
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if sick.Load() {
			http.Error(w, "sick", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("POST /mirror", mirror)
	mux.HandleFunc("GET /echo", echoStream)
	mux.HandleFunc("POST /sick", func(http.ResponseWriter, *http.Request) { sick.Store(true) })
	mux.HandleFunc("POST /well", func(http.ResponseWriter, *http.Request) { sick.Store(false) })
	// GET /slow?for=2s answers at the end of that time: a request that an update must not lose.
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		wait, err := time.ParseDuration(r.URL.Query().Get("for"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case <-r.Context().Done():
		case <-time.After(wait):
			fmt.Fprintln(w, "done")
		}
	})
	return mux
}

func answer(r *http.Request) Answer {
	name, _ := os.Hostname() // "" says enough
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	from := parseAddr(r.RemoteAddr)
	a := Answer{
		Hostname: name, Version: os.Getenv("VERSION"), Client: from.Addr().String(), Port: from.Port(),
		Addresses: addresses(), Env: os.Environ(),
	}
	if local != nil {
		a.Local = parseAddr(local.String()).String()
	}
	return a
}

// parseAddr shows IPv4 clients of a dual-stack socket as IPv4. What the net package printed always parses.
func parseAddr(addr string) netip.AddrPort {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func addresses() []string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []string
	for _, a := range all {
		if ipnet, ok := a.(*net.IPNet); ok && !ipnet.IP.IsLoopback() && !ipnet.IP.IsLinkLocalUnicast() {
			list = append(list, ipnet.String())
		}
	}
	return list
}

// echo answers each datagram with "HOSTNAME CLIENT TEXT".
func echo(conn net.PacketConn) error {
	name, _ := os.Hostname()
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%s %s %s", name, parseAddr(from.String()), buffer[:n])
		if _, err := conn.WriteTo([]byte(text), from); err != nil && !errors.Is(err, net.ErrClosed) {
			log.Printf("answer %s: %v", from, err) // this client's trouble, not the server's
		}
	}
}
