package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// The first byte of a connection says what is measured over it.
const (
	benchStream  = 's' // the server takes what comes
	benchEcho    = 'e' // it sends each byte back
	benchConnect = 'c' // it sends one byte
)

const streamBuffer = 128 << 10

// benchServe answers bench-client until ctx ends.
func benchServe(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench-serve", flag.ContinueOnError)
	address := flags.String("listen", ":7000", "address")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() { // ends with its client, or with the process
			defer conn.Close()
			_ = benchAnswer(conn) // the client's to complain about
		}()
	}
}

func benchAnswer(conn net.Conn) error {
	mode := make([]byte, 1)
	if _, err := io.ReadFull(conn, mode); err != nil {
		return err
	}
	buffer := make([]byte, streamBuffer)
	switch mode[0] {
	case benchStream:
		for {
			if _, err := conn.Read(buffer); err != nil {
				return err
			}
		}
	case benchEcho:
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return err
			}
			if _, err := conn.Write(buffer[:n]); err != nil {
				return err
			}
		}
	}
	if _, err := conn.Write(mode); err != nil {
		return err
	}
	_, err := conn.Read(mode) // until the client closes
	return err
}

// benchClient prints how much it could do in a second: bytes, round trips, connections or answers of the resolver, one after the other or some at once.
func benchClient(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench-client", flag.ContinueOnError)
	mode := flags.String("mode", "stream", "stream, echo, connect or lookup")
	last := flags.Duration("for", time.Second, "how long")
	streams := flags.Int("streams", 1, "how many at once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	run, ok := map[string]func(context.Context, string, time.Time) (int, error){
		"stream": streamFor, "echo": echoFor, "connect": connectFor, "lookup": lookupFor,
	}[*mode]
	if flags.NArg() != 1 || !ok || *streams < 1 {
		return errors.New("usage: sample bench-client [-mode stream|echo|connect|lookup] [-streams N] [-for D] HOST:PORT|NAME")
	}
	start := time.Now()
	var done atomic.Int64
	var all errgroup.Group
	for range *streams {
		all.Go(func() error {
			n, err := run(ctx, flags.Arg(0), start.Add(*last))
			done.Add(int64(n))
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	_, err := fmt.Printf("%.0f\n", float64(done.Load())/time.Since(start).Seconds())
	return err
}

func benchDial(ctx context.Context, address string, mode byte) (*net.TCPConn, error) {
	dialer := net.Dialer{Timeout: defaultTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	if _, err := tcp.Write([]byte{mode}); err != nil {
		tcp.Close()
		return nil, err
	}
	return tcp, nil
}

func streamFor(ctx context.Context, address string, end time.Time) (bytes int, err error) {
	conn, err := benchDial(ctx, address, benchStream)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	buffer := make([]byte, streamBuffer)
	for time.Now().Before(end) {
		n, err := conn.Write(buffer)
		if err != nil {
			return 0, err
		}
		bytes += n
	}
	// What is still in buffers has not been carried: the server closes when it has all.
	if err := errors.Join(conn.CloseWrite(), conn.SetReadDeadline(time.Now().Add(defaultTimeout))); err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, conn)
	return bytes, err
}

func echoFor(ctx context.Context, address string, end time.Time) (trips int, err error) {
	conn, err := benchDial(ctx, address, benchEcho)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	one := make([]byte, 1)
	for ; time.Now().Before(end); trips++ {
		if _, err := conn.Write(one); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(conn, one); err != nil {
			return 0, err
		}
	}
	return trips, nil
}

func connectFor(ctx context.Context, address string, end time.Time) (connections int, err error) {
	one := make([]byte, 1)
	for ; time.Now().Before(end); connections++ {
		conn, err := benchDial(ctx, address, benchConnect)
		if err != nil {
			return 0, err
		}
		_, err = io.ReadFull(conn, one)
		// A reset: there are not ports enough for a TIME-WAIT of each.
		if err := errors.Join(err, conn.SetLinger(0), conn.Close()); err != nil {
			return 0, err
		}
	}
	return connections, nil
}

// lookupFor asks the first server of /etc/resolv.conf for a name's IPv4 addresses.
func lookupFor(ctx context.Context, name string, end time.Time) (answers int, err error) {
	server, err := resolver()
	if err != nil {
		return 0, err
	}
	return lookupAt(ctx, server, name, end)
}

func lookupAt(ctx context.Context, server, name string, end time.Time) (answers int, err error) {
	var client dns.Client
	conn, err := client.DialContext(ctx, server)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	for ; time.Now().Before(end); answers++ {
		answer, _, err := client.ExchangeWithConnContext(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), conn)
		if err != nil {
			return 0, err
		}
		if len(answer.Answer) == 0 {
			return 0, fmt.Errorf("%s: no address, %s", name, dns.RcodeToString[answer.Rcode])
		}
	}
	return answers, nil
}
