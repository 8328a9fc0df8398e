// Command voting is the programs of the voting app that are ours: vote takes votes into a queue in Redis, worker moves them to the
// database, result counts them.
//
//	voting vote|worker|result
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	// address is where vote and result listen.
	address = ":80"
	// pause is how long what failed is left alone.
	pause = 500 * time.Millisecond
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	programs := map[string]func(context.Context) error{"vote": vote, "worker": worker, "result": result}
	if len(os.Args) != 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: voting vote|worker|result")
		os.Exit(2)
	}
	if err := programs[os.Args[1]](ctx); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

// serve answers requests until ctx ends, and then those that have begun.
func serve(ctx context.Context, handle http.HandlerFunc) error {
	server := http.Server{Addr: address, Handler: handle, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	log.Printf("%s listens on %s", os.Args[1], address)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	return errors.Join(server.Shutdown(context.WithoutCancel(ctx)), ctx.Err())
}

// hostname tells who of several tasks answers.
func hostname() string {
	name, _ := os.Hostname() // "" says as much
	return name
}
