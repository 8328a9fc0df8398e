package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
)

// Load puts an image into every running engine: from a tar that `docker save` or this project's tools made, or, if there is no such
// file, from the first running node that has an image of that name.
func (l *Lab) Load(ctx context.Context, image string) error {
	r, err := readRecord(l.name)
	if err != nil {
		return err
	}
	var running []string
	for _, n := range r.Nodes {
		if n.Init.alive() {
			running = append(running, n.Name)
		}
	}
	if len(running) == 0 {
		return fmt.Errorf("no node of lab %s runs", l.name)
	}
	path := image
	if _, err := os.Stat(image); errors.Is(err, os.ErrNotExist) {
		saved, err := l.save(ctx, running, image)
		if err != nil {
			return err
		}
		defer os.Remove(saved)
		path = saved
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range running {
		group.Go(func() error { return l.loadInto(ctx, node, path) })
	}
	return group.Wait()
}

// save writes the image to a temporary file.
func (l *Lab) save(ctx context.Context, nodes []string, image string) (path string, err error) {
	var errs []error
	for _, node := range nodes {
		path, err := l.saveFrom(ctx, node, image)
		if err == nil {
			return path, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", node, err))
	}
	return "", fmt.Errorf("no file %s, and no node has an image of that name: %w", image, errors.Join(errs...))
}

func (l *Lab) saveFrom(ctx context.Context, node, image string) (path string, err error) {
	api, err := l.EngineClient(node)
	if err != nil {
		return "", err
	}
	defer api.Close()
	stream, err := api.ImageSave(ctx, []string{image})
	if err != nil {
		return "", err
	}
	defer stream.Close()
	file, err := os.CreateTemp("", "meshd-lab-image-*.tar")
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(file, stream); err != nil {
		return "", errors.Join(err, file.Close(), os.Remove(file.Name()))
	}
	return file.Name(), file.Close()
}

func (l *Lab) loadInto(ctx context.Context, node, path string) error {
	began := time.Now()
	api, err := l.EngineClient(node)
	if err != nil {
		return err
	}
	defer api.Close()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	answer, err := api.ImageLoad(ctx, file, client.ImageLoadWithQuiet(true))
	if err != nil {
		return fmt.Errorf("%s: load %s: %w", node, path, err)
	}
	defer answer.Close()
	if err := readLoadStream(answer); err != nil {
		return fmt.Errorf("%s: load %s: %w", node, path, err)
	}
	l.say("%s: image loaded (%.1fs)", node, time.Since(began).Seconds())
	return nil
}

// readLoadStream reads the engine's JSON messages to the end: an error comes in one of them, after the status 200.
func readLoadStream(r io.Reader) error {
	messages := json.NewDecoder(r)
	for {
		var message struct {
			Error string `json:"error"`
		}
		err := messages.Decode(&message)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if message.Error != "" {
			return errors.New(message.Error)
		}
	}
}
