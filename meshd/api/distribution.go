package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"
)

// registryPatience is how long a registry may take to answer when the engine
// has the image anyway. A resolver that cannot be reached takes 5 s to fail, and
// a cluster without a way out would wait for it with every service.
const registryPatience = 1500 * time.Millisecond

// distribution asks a registry for an image's digest, through the engine. Clients
// take a refusal as a warning and go on with the image's name. An image that the
// engine has not got needs the registry to answer: that is waited for.
func (s *Server) distribution(w http.ResponseWriter, r *http.Request) error {
	ref := r.PathValue("id")
	var watch sync.WaitGroup
	defer watch.Wait()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	watch.Go(func() {
		patience := time.NewTimer(registryPatience)
		defer patience.Stop()
		select {
		case <-ctx.Done():
		case <-patience.C:
			if s.engine.hasImage(ctx, ref) {
				cancel(refuse(http.StatusServiceUnavailable, "the registry of image %s did not answer within %v; the image on the nodes is used", ref, registryPatience))
			}
		}
	})
	status, header, body, err := s.engine.ask(r.WithContext(ctx))
	if err != nil {
		var given *fault
		if errors.As(context.Cause(ctx), &given) {
			return given
		}
		return err
	}
	return pass(w, status, header, body)
}

// hasImage says whether the engine has an image, by name or digest.
func (e *engine) hasImage(ctx context.Context, ref string) bool {
	segments := strings.Split(ref, "/")
	for i := range segments {
		segments[i] = pathEscape(segments[i])
	}
	var image struct{ ID string }
	return e.get(ctx, "/images/"+strings.Join(segments, "/")+"/json", &image) == nil
}
