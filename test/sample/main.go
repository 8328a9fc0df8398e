// Command sample is the application of the demo and the end-to-end tests: a server that says who called whom, and small clients to call
// it with from inside of a container. It is static and needs nothing in its image.
//
//	sample serve              HTTP on :8080 (or $PORT), UDP on :9000 (or $UDP_PORT); SIGUSR1: refuse TCP from now on
//	sample get URL            call a server; status 1 unless every answer is 200 (-n N, -timeout D, -field NAME of the JSON answer)
//	sample probe URL|NAME     call or look up in a steady beat, a line for each (-every D, -timeout D, -for D, -stdin, -lookup, -hold N, -idle)
//	sample bench-serve        what bench-client measures the way to (-listen ADDR)
//	sample bench-client HOST:PORT  bytes, round trips or connections per second (-mode stream|echo|connect, -streams N, -for D)
//	sample bench-client -mode lookup NAME  answers of the resolver per second (-streams N, -for D)
//	sample transfer URL ...   send bytes to servers and have them back (-bytes N, -timeout D)
//	sample udp HOST:PORT      send one datagram, print the answer (-timeout D)
//	sample lookup NAME|ADDR   ask the resolver (-type T, -tcp, -reverse)
//	sample sleep [DURATION]   wait (default for ever); ends at once on SIGTERM
//	sample exit CODE          end with that status
//
// Called by the names sleep, true or false it does what those do.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args)
	stop()
	if status, ok := errors.AsType[exitStatus](err); ok {
		os.Exit(int(status))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sample:", err)
		os.Exit(1)
	}
}

// exitStatus ends the program without a word.
type exitStatus int

func (s exitStatus) Error() string { return "exit " + strconv.Itoa(int(s)) }

func run(ctx context.Context, args []string) error {
	command, rest := filepath.Base(args[0]), args[1:]
	if command == "sample" {
		if len(rest) == 0 {
			rest = []string{"serve"}
		}
		command, rest = rest[0], rest[1:]
	}
	switch command {
	case "serve":
		return serve(ctx)
	case "get":
		return get(ctx, rest)
	case "probe":
		return probe(ctx, rest)
	case "bench-serve":
		return benchServe(ctx, rest)
	case "bench-client":
		return benchClient(ctx, rest)
	case "transfer":
		return transfer(ctx, rest)
	case "udp":
		return sendUDP(ctx, rest)
	case "lookup":
		return lookup(ctx, rest)
	case "show":
		return show(rest)
	case "sleep":
		return sleep(ctx, rest)
	case "exit":
		return exit(rest)
	case "true":
		return nil
	case "false":
		return exitStatus(1)
	}
	return fmt.Errorf("unknown command %q: serve, get, probe, bench-serve, bench-client, transfer, udp, lookup, show, sleep or exit", command)
}

// sleep takes seconds, as sleep(1), or Go's durations. Being asked to end is no failure.
func sleep(ctx context.Context, args []string) error {
	if len(args) == 0 {
		<-ctx.Done()
		return nil
	}
	if _, err := strconv.ParseFloat(args[0], 64); err == nil {
		args[0] += "s"
	}
	duration, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
	return nil
}

func exit(args []string) error {
	if len(args) == 0 {
		return nil
	}
	code, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	return exitStatus(code)
}
