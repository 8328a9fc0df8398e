package api

import (
	"context"
	"net/http"

	"github.com/meshd/meshd/meshd/observe"
)

// Observer looks into this node's data plane. Workers have one, too.
type Observer interface {
	// Metrics answers scrapes in Prometheus' format.
	Metrics() http.Handler
	// Check compares what should be with what the kernel holds.
	Check(ctx context.Context) (observe.Report, error)
	// Flows lists the balanced connections of a service; empty: of all.
	Flows(ctx context.Context, service string, all bool) ([]observe.Flow, error)
	// Trace follows a packet from a container of this node.
	Trace(ctx context.Context, from, to string) (observe.Trace, error)
}

// meshRoutes are our own, beside Docker's.
func (s *Server) meshRoutes() []route {
	get := http.MethodGet
	return []route{
		at(get, "/metrics", s.metrics), at(get, "/mesh/net/check", s.netCheck), at(get, "/mesh/net/checks", s.netChecks),
		at(get, NetPath+"doctor", s.examineSelf), at(get, "/mesh/doctor", s.examineAll),
		at(get, "/mesh/net/flows", s.netFlows), at(get, "/mesh/net/trace", s.netTrace),
		at(get, "/mesh/net/lags", s.onManager(s.netLags)),
		at(http.MethodPost, "/mesh/shutdown", s.shutDown),
		at(http.MethodPost, "/mesh/keys/rotate", s.onManager(s.rotateKeys)),
		at(get, "/mesh/tasks/*/explain", s.onManager(s.taskExplain)),
	}
}

// shutDown answers when no task runs here any more.
func (s *Server) shutDown(w http.ResponseWriter, r *http.Request) error {
	if err := s.node.ShutDown(r.Context()); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

var errNoObserver = refuse(http.StatusNotImplemented, "this daemon does not observe its data plane")

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	if s.observer == nil {
		return errNoObserver
	}
	s.observer.Metrics().ServeHTTP(w, r)
	return nil
}

func (s *Server) checkSelf(ctx context.Context) (observe.Report, error) {
	if s.observer == nil {
		return observe.Report{}, errNoObserver
	}
	return s.observer.Check(ctx)
}

func (s *Server) netCheck(w http.ResponseWriter, r *http.Request) error {
	report, err := s.checkSelf(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, report)
	return nil
}

// netLags says which nodes this manager watches, and what holds them back. Everything
// that a manager had acknowledged before the question counts.
func (s *Server) netLags(w http.ResponseWriter, r *http.Request, c Control) error {
	nodes, lags, err := c.Watched(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, observe.Lags{Watched: nodes, Lags: lags})
	return nil
}

func (s *Server) netFlows(w http.ResponseWriter, r *http.Request) error {
	if s.observer == nil {
		return errNoObserver
	}
	flows, err := s.observer.Flows(r.Context(), r.URL.Query().Get("service"), isSet(r, "all"))
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, flows)
	return nil
}

func (s *Server) netTrace(w http.ResponseWriter, r *http.Request) error {
	if s.observer == nil {
		return errNoObserver
	}
	from, to := r.URL.Query().Get("from"), r.URL.Query().Get("to")
	if from == "" || to == "" {
		return invalid("a trace needs the query parameters from and to")
	}
	trace, err := s.observer.Trace(r.Context(), from, to)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, trace)
	return nil
}
