package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// atOnce bounds the calls under way: a target that does not answer must not eat the machine.
const atOnce = 200

// probe calls a target in a steady beat, whether earlier calls have ended or not, and prints a line for each as it ends:
//
//	START TOOK ok NAME       start and duration in microseconds; the answering task's hostname, or the addresses found
//	START TOOK fail REASON
//
// Each call has a connection of its own; with -hold they take turns on as many that stay open, and a call that finds its connection
// broken fails with "broke HOSTNAME", of the task that it led to. With -idle each of these is called once in the beginning and once in the end.
// A target udp://HOST:PORT gets datagrams, with -hold numbered ones from one socket. A target stream://HOST:PORT gets bytes without end over one
// connection, and a call is until what was sent then has come back. It ends with -for, when asked to, or, with -stdin, when its standard input ends.
func probe(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	every := flags.Duration("every", 20*time.Millisecond, "the beat")
	timeout := flags.Duration("timeout", time.Second, "for each call")
	last := flags.Duration("for", 0, "end after this time")
	lookup := flags.Bool("lookup", false, "look a name up instead of calling a URL")
	hold := flags.Int("hold", 0, "use this many connections, again and again")
	idle := flags.Bool("idle", false, "leave these connections alone between a first call and a last one")
	stdin := flags.Bool("stdin", false, "end when the standard input ends")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("usage: sample probe [-every D] [-timeout D] [-for D] [-stdin] [-lookup] [-hold N [-idle]] URL|NAME")
	}
	call := caller(flags.Arg(0), *timeout, *lookup, *hold)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *last > 0 {
		ctx, cancel = context.WithTimeout(ctx, *last)
		defer cancel()
	}
	if *stdin {
		go func() { // ends with the process: nothing interrupts a read of stdin
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	r := reporter{timeout: *timeout}
	if *idle {
		r.round(*hold, call)
		<-ctx.Done()
		r.round(*hold, call)
		return nil
	}
	r.beat(ctx, *every, call)
	return nil
}

// reporter makes calls and prints a line for each.
type reporter struct {
	timeout time.Duration
	out     sync.Mutex
}

func (r *reporter) do(call func(context.Context) (string, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	start := time.Now()
	word := "ok"
	what, err := call(ctx)
	if err != nil {
		word, what = "fail", strings.ReplaceAll(err.Error(), "\n", " ")
	}
	r.out.Lock()
	defer r.out.Unlock()
	fmt.Printf("%d %d %s %s\n", start.UnixMicro(), time.Since(start).Microseconds(), word, what)
}

// round makes n calls at the same time.
func (r *reporter) round(n int, call func(context.Context) (string, error)) {
	var calls sync.WaitGroup
	defer calls.Wait()
	for range n {
		calls.Go(func() { r.do(call) })
	}
}

// beat starts calls until ctx ends, then waits for those under way.
func (r *reporter) beat(ctx context.Context, every time.Duration, call func(context.Context) (string, error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	slots := make(chan struct{}, atOnce)
	var calls sync.WaitGroup
	for ctx.Err() == nil {
		slots <- struct{}{}
		calls.Go(func() {
			defer func() { <-slots }()
			r.do(call)
		})
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	calls.Wait()
}

func caller(target string, timeout time.Duration, lookup bool, hold int) func(context.Context) (string, error) {
	address, datagram := strings.CutPrefix(target, "udp://")
	to, endless := strings.CutPrefix(target, "stream://")
	switch {
	case lookup:
		return lookupAll(target)
	case endless:
		return newStream("http://"+to+"/echo", timeout).call
	case datagram && hold > 0:
		return (&flow{address: address}).call
	case datagram:
		return datagramTo(address)
	case hold > 0:
		return newHolder(target, timeout, hold).call
	}
	return callOnce(timeout, target)
}

func lookupAll(name string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		var resolver net.Resolver
		found, err := resolver.LookupHost(ctx, name)
		slices.Sort(found)
		return strings.Join(found, ","), err
	}
}

// callOnce returns the first word that the text of the answer gives as hostname.
func callOnce(timeout time.Duration, url string) func(context.Context) (string, error) {
	client := &http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) (string, error) {
		connected := false
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }})
		body, err := getOnce(ctx, client, url+"?text")
		if err != nil && connected {
			return "", fmt.Errorf("after it was connected: %w", err)
		}
		if err != nil {
			return "", err
		}
		first, _, _ := strings.Cut(string(body), "\n")
		return strings.TrimPrefix(first, "hostname "), nil
	}
}
