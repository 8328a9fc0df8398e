package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const defaultTimeout = 5 * time.Second

// get calls a URL n times, each over a connection of its own, and prints the bodies.
func get(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	n := flags.Int("n", 1, "how often")
	timeout := flags.Duration("timeout", defaultTimeout, "for each call")
	field := flags.String("field", "", "print only this field of the answer")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("usage: sample get [-n N] [-timeout D] [-field NAME] URL")
	}
	url := flags.Arg(0)
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	var errs []error
	for range *n {
		body, err := getOnce(ctx, client, url)
		if err == nil && *field != "" {
			body, err = pick(body, *field)
		}
		fmt.Print(string(body))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// getOnce returns the body whatever the status is.
func getOnce(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body, err
}

// pick returns one field of a JSON object on a line.
func pick(body []byte, field string) ([]byte, error) {
	var object map[string]any
	if err := json.Unmarshal(body, &object); err != nil {
		return nil, err
	}
	value, ok := object[field]
	if !ok {
		return nil, fmt.Errorf("no field %q in %s", field, body)
	}
	return fmt.Appendln(nil, value), nil
}

func sendUDP(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("udp", flag.ContinueOnError)
	timeout := flags.Duration("timeout", defaultTimeout, "until the answer")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if args = flags.Args(); len(args) == 1 {
		args = append(args, "hello")
	}
	if len(args) != 2 {
		return errors.New("usage: sample udp [-timeout D] HOST:PORT [TEXT]")
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(*timeout)); err != nil {
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
