package api

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// Limits of the requests that are answered here; the engine has its own for the rest.
const (
	maxBody    = 4 << 20
	maxHeaders = 256 << 10 // credentials for registries among them
	headerTime = time.Minute
	bodyTime   = time.Minute
)

// wholeBody reads a request's body, which must be here in time.
func wholeBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	// Unsupported by what tests answer to. The server itself takes it back for the next request.
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(bodyTime))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return nil, refuse(http.StatusRequestTimeout, "the request's body did not arrive within %v", bodyTime)
	}
	_ = conn.SetReadDeadline(time.Time{}) // the connection is watched while the request is answered
	return body, err
}

// readBody decodes a JSON body.
func readBody(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := wholeBody(w, r)
	if err != nil {
		return err
	}
	if len(body) == 0 {
		return invalid("invalid JSON: got EOF while reading request body")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return invalid("invalid JSON: %v", err)
	}
	return nil
}
