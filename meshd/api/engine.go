package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"
)

// engine is the node's Docker Engine behind its unix socket. It answers all
// that meshd has no say in; an upgraded connection (exec, attach, a build's
// session) is carried through in both directions.
type engine struct {
	path      string
	transport *http.Transport
	proxy     *httputil.ReverseProxy
	log       *slog.Logger

	mu       sync.Mutex
	max, min apiVersion // zero until the engine was asked
}

func newEngine(path string, log *slog.Logger) *engine {
	e := &engine{path: strings.TrimPrefix(path, "unix://"), log: log}
	var d net.Dialer
	e.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", e.path)
		},
		DisableCompression: true,
		IdleConnTimeout:    time.Minute,
		MaxIdleConns:       16,
	}
	e.proxy = &httputil.ReverseProxy{
		Rewrite:        func(p *httputil.ProxyRequest) { e.address(p.Out); p.Out.URL.RawQuery = p.In.URL.RawQuery },
		Transport:      e.transport,
		FlushInterval:  -1, // logs and events are streams
		ModifyResponse: e.observe,
		ErrorHandler:   e.unreachable,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return e
}

// forward hands the request to the engine.
func (e *engine) forward(w http.ResponseWriter, r *http.Request) error {
	e.proxy.ServeHTTP(w, r)
	return nil
}

// ask hands the request to the engine and reads its answer to the end.
func (e *engine) ask(r *http.Request) (status int, header http.Header, body []byte, err error) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	e.address(out)
	res, err := e.transport.RoundTrip(out)
	if err != nil {
		return 0, nil, nil, e.down(err)
	}
	defer res.Body.Close()
	if err := e.observe(res); err != nil {
		return 0, nil, nil, err
	}
	body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return 0, nil, nil, e.down(err)
	case len(body) > maxAnswer:
		return 0, nil, nil, refuse(http.StatusInternalServerError, "the Docker Engine's answer is larger than %d bytes", maxAnswer)
	}
	return res.StatusCode, res.Header, body, nil
}

// pass gives the client an answer that ask read.
func pass(w http.ResponseWriter, status int, header http.Header, body []byte) error {
	for _, k := range []string{"Content-Type", "Warning"} {
		if v := header.Get(k); v != "" {
			w.Header().Set(k, v)
		}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client went away; nobody is left to tell
	return nil
}

// address points a request at the engine, with a version prefix it accepts.
// A request without a prefix keeps having none.
func (e *engine) address(out *http.Request) {
	out.URL.Scheme, out.URL.Host, out.Host = "http", "docker", "docker"
	v, ok := requestVersion(out.Context())
	if !ok {
		return
	}
	high, low, err := e.versions(out.Context())
	switch {
	case err != nil: // the round trip will say why
	case high.less(v):
		v = high
	case v.less(low):
		v = low
	}
	raw := "/v" + v.String() + out.URL.EscapedPath()
	out.URL.Path, out.URL.RawPath = "/v"+v.String()+out.URL.Path, raw
}

// observe looks at what the engine says of itself: another version than the
// known one means that it was replaced. Our own headers stand already.
func (e *engine) observe(res *http.Response) error {
	if v, ok := parseVersion(res.Header.Get("Api-Version")); ok {
		e.mu.Lock()
		if v != e.max {
			e.max, e.min = apiVersion{}, apiVersion{}
		}
		e.mu.Unlock()
	}
	for _, k := range []string{"Api-Version", "Server", "Docker-Experimental", "Ostype", "Swarm"} {
		res.Header.Del(k)
	}
	return nil
}

func (e *engine) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) {
		return // the client went away
	}
	e.log.Warn("the Docker Engine did not answer", "path", r.URL.Path, "error", err)
	f := faultOf(e.down(err))
	reply(w, f.status, map[string]string{"message": f.text})
}

func (e *engine) down(err error) error {
	return refuse(http.StatusServiceUnavailable, "Cannot reach this node's Docker Engine at unix://%s: %v. Is it running?", e.path, err)
}

// probeTime bounds a question to the engine that a local answer depends on.
const probeTime = 5 * time.Second

// versions returns the highest and the lowest API version the engine speaks.
func (e *engine) versions(ctx context.Context) (high, low apiVersion, err error) {
	e.mu.Lock()
	high, low = e.max, e.min
	e.mu.Unlock()
	if high != (apiVersion{}) {
		return high, low, nil
	}
	var v struct{ ApiVersion, MinAPIVersion string }
	if err := e.get(ctx, "/version", &v); err != nil {
		return high, low, err
	}
	high, ok := parseVersion(v.ApiVersion)
	if !ok {
		return high, low, fmt.Errorf("api: the engine names its API version %q", v.ApiVersion)
	}
	if low, ok = parseVersion(v.MinAPIVersion); !ok {
		low = apiMin
	}
	e.mu.Lock()
	e.max, e.min = high, low
	e.mu.Unlock()
	return high, low, nil
}

// lowest is the oldest version that clients may use. It asks nobody: the swarm
// side does not wait for the engine.
func (e *engine) lowest() apiVersion {
	e.mu.Lock()
	defer e.mu.Unlock()
	if apiMin.less(e.min) {
		return e.min
	}
	return apiMin
}

// get reads a JSON answer of the engine into v. An answer that is an error
// comes back as a fault of the same status and text.
func (e *engine) get(ctx context.Context, pathAndQuery string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	body, err := e.open(ctx, pathAndQuery)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(v); err != nil {
		return fmt.Errorf("api: read the engine's answer to %s: %w", pathAndQuery, err)
	}
	return nil
}

// maxAnswer bounds what is read of an engine's answer at once.
const maxAnswer = 64 << 20

func (e *engine) open(ctx context.Context, pathAndQuery string) (io.ReadCloser, error) {
	return e.send(ctx, http.MethodGet, pathAndQuery, nil)
}

// do has the engine do something; an answer that is an error is get's.
func (e *engine) do(ctx context.Context, method, pathAndQuery string, body []byte) error {
	answer, err := e.send(ctx, method, pathAndQuery, body)
	if err != nil {
		return err
	}
	return answer.Close()
}

func (e *engine) send(ctx context.Context, method, pathAndQuery string, body []byte) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+pathAndQuery, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("api: ask the engine: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := e.transport.RoundTrip(req)
	if err != nil {
		return nil, e.down(err)
	}
	if res.StatusCode < http.StatusMultipleChoices {
		return res.Body, nil
	}
	defer res.Body.Close()
	var m struct{ Message string }
	if json.NewDecoder(io.LimitReader(res.Body, maxBody)).Decode(&m) != nil || m.Message == "" {
		m.Message = "the engine answers " + res.Status
	}
	return nil, &fault{res.StatusCode, m.Message}
}
