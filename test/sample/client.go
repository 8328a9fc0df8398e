package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"
)

const defaultTimeout = 5 * time.Second

// get calls a URL n times, each over a connection of its own, and prints the bodies.
func get(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	n := flags.Int("n", 1, "how often")
	timeout := flags.Duration("timeout", defaultTimeout, "for each call")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("usage: sample get [-n N] [-timeout D] URL")
	}
	url := flags.Arg(0)
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	var errs []error
	for range *n {
		errs = append(errs, getOnce(ctx, client, url))
	}
	return errors.Join(errs...)
}

func getOnce(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

func sendUDP(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: sample udp HOST:PORT TEXT")
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(defaultTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(args[1])); err != nil {
		return err
	}
	buffer := make([]byte, 64<<10)
	got, err := conn.Read(buffer)
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%s\n", buffer[:got])
	return err
}

// lookup prints one address (or, for an address, one name) per line.
func lookup(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: sample lookup NAME|ADDR")
	}
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	var resolver net.Resolver
	ask := resolver.LookupHost
	if _, err := netip.ParseAddr(args[0]); err == nil {
		ask = resolver.LookupAddr
	}
	found, err := ask(ctx, args[0])
	if err != nil {
		return err
	}
	_, err = fmt.Println(strings.Join(found, "\n"))
	return err
}
