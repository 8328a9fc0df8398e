package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/meshd/observe"
	"github.com/meshd/meshd/orchestrator/store"
)

const (
	// NetPath is where a node tells managers about its network, as it does on its socket.
	NetPath = "/mesh/net/"
	// checkTime bounds the wait for one node's report.
	checkTime = 10 * time.Second
	// checksAtOnce bounds how many nodes are asked at the same time.
	checksAtOnce = 16
)

// netChecks compares what should be with what the kernel holds, on every node if
// this one is a manager. A node that does not answer has a report that says so.
func (s *Server) netChecks(w http.ResponseWriter, r *http.Request) error {
	c, manager := s.node.Manager()
	if !manager {
		report, err := s.checkSelf(r.Context())
		if err != nil {
			return err
		}
		reply(w, http.StatusOK, observe.Reports{Reports: []observe.Report{report}, Partial: true})
		return nil
	}
	var nodes []*store.Node
	c.Store().View(func(v *store.View) { nodes = slices.Clone(v.Nodes()) })
	slices.SortFunc(nodes, func(a, b *store.Node) int { return strings.Compare(a.Hostname(), b.Hostname()) })
	reports := make([]observe.Report, len(nodes))
	var g errgroup.Group
	g.SetLimit(checksAtOnce)
	for i, n := range nodes {
		g.Go(func() error {
			var err error
			if n.Status.State == swarm.NodeStateDown {
				err = errDown
			} else {
				err = askNode(r.Context(), c, n, "check", checkTime, &reports[i])
			}
			if err != nil {
				reports[i] = observe.Report{Node: n.ID, Hostname: n.Hostname(), Error: err.Error()}
			}
			return nil
		})
	}
	_ = g.Wait() // errors stand in the reports
	reply(w, http.StatusOK, observe.Reports{Reports: reports})
	return nil
}

var errDown = errors.New("the managers count it as down")

// askNode asks a node what it tells below NetPath.
func askNode(ctx context.Context, c Control, n *store.Node, what string, limit time.Duration, out any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.ID+NetPath+what, nil)
	if err != nil {
		return err
	}
	resp, err := c.Nodes().RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
