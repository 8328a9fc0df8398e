package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"time"
)

// mostMirrored bounds what POST /mirror takes, in bytes.
const mostMirrored = 64 << 20

// mirror sends the whole body back when it has come.
func mirror(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostMirrored))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(body) // the caller went away if this fails
}

// transfer sends bytes to each server's /mirror and reads them back, over a connection for each.
func transfer(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("transfer", flag.ContinueOnError)
	size := flags.Int("bytes", 10<<20, "how many, each way")
	timeout := flags.Duration("timeout", 30*time.Second, "for each server")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("usage: sample transfer [-bytes N] [-timeout D] http://HOST:PORT ...")
	}
	sent := make([]byte, *size)
	_, _ = rand.Read(sent) // never fails
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	var errs []error
	for _, url := range flags.Args() {
		if err := transferOnce(ctx, client, url+"/mirror", sent); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", url, err))
		}
	}
	return errors.Join(errs...)
}

func transferOnce(ctx context.Context, client *http.Client, url string, sent []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(sent))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Equal(got, sent)) {
		err = fmt.Errorf("%s, and %d bytes of %d that are not the same", resp.Status, len(got), len(sent))
	}
	return err
}
