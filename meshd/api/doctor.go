package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/meshd/doctor"
	"github.com/meshd/meshd/orchestrator/store"
)

// Examiner looks at this machine, and at the ways to other nodes.
type Examiner interface {
	Examine(ctx context.Context) doctor.Report
}

const (
	// examineTime bounds the wait for one node's examination.
	examineTime = 30 * time.Second
	// examinations are how many there are before a way counts as closed: nodes that are called late miss what others send.
	examinations = 3
)

// examineSelf answers for this node only.
func (s *Server) examineSelf(w http.ResponseWriter, r *http.Request) error {
	if s.examiner == nil {
		return refuse(http.StatusNotImplemented, "this daemon does not examine its machine")
	}
	reply(w, http.StatusOK, s.examiner.Examine(r.Context()))
	return nil
}

// examineAll has all nodes examined at the same time, if this one is a manager, and judges what they say together.
func (s *Server) examineAll(w http.ResponseWriter, r *http.Request) error {
	c, manager := s.node.Manager()
	if !manager {
		if s.examiner == nil {
			return s.examineSelf(w, r)
		}
		reply(w, http.StatusOK, doctor.Reports{Reports: []doctor.Report{s.examiner.Examine(r.Context())}, Cluster: s.seenFromHere()})
		return nil
	}
	var (
		nodes   []*store.Node
		tunnels uint16
	)
	c.Store().View(func(v *store.View) {
		nodes = slices.Clone(v.Nodes())
		if cluster := v.Cluster(); cluster != nil {
			tunnels = uint16(cluster.DataPathPort)
		}
	})
	slices.SortFunc(nodes, func(a, b *store.Node) int { return cmp.Compare(a.Hostname(), b.Hostname()) })
	reports, skews := examineNodes(r.Context(), c, nodes)
	judge := func() []doctor.Finding { return doctor.Judge(reports, cmp.Or(tunnels, 4789), s.gossip) }
	ways := judge()
	for range examinations - 1 {
		if !slices.ContainsFunc(ways, func(f doctor.Finding) bool { return f.Level == doctor.Problem }) {
			break
		}
		again, _ := examineNodes(r.Context(), c, nodes)
		doctor.Better(reports, again)
		ways = judge()
	}
	for i := range reports {
		if reports[i].Error == "" && reports[i].Node != s.node.Status().NodeID {
			reports[i].Findings = append(reports[i].Findings, skews[i])
		}
	}
	reply(w, http.StatusOK, doctor.Reports{Reports: reports, Cluster: append([]doctor.Finding{quorum(r.Context(), c, nodes)}, ways...)})
	return nil
}

// seenFromHere is what a node that is no manager knows of the cluster.
func (s *Server) seenFromHere() []doctor.Finding {
	if s.node.Status().State != swarm.LocalNodeStateActive {
		return nil
	}
	return []doctor.Finding{{Check: "cluster", Level: doctor.Unseen, Says: "this node is not a manager: it knows of itself only", Advice: "ask a manager"}}
}

// examineNodes asks all at the same time, since they call each other meanwhile.
func examineNodes(ctx context.Context, c Control, nodes []*store.Node) ([]doctor.Report, []doctor.Finding) {
	reports, skews := make([]doctor.Report, len(nodes)), make([]doctor.Finding, len(nodes))
	var g errgroup.Group
	for i, n := range nodes {
		g.Go(func() error {
			var err error
			if n.Status.State == swarm.NodeStateDown {
				err = errDown
			} else {
				err = askNode(ctx, c, n, "doctor", examineTime, &reports[i])
			}
			if err != nil {
				reports[i] = doctor.Report{Error: err.Error()}
			}
			skews[i] = doctor.Skew(reports[i], time.Now())
			reports[i].Node, reports[i].Hostname = n.ID, n.Hostname()
			return nil
		})
	}
	_ = g.Wait() // errors stand in the reports
	return reports, skews
}

func quorum(ctx context.Context, c Control, nodes []*store.Node) doctor.Finding {
	managers, reachable := 0, 0
	for _, n := range nodes {
		if n.Spec.Role == swarm.NodeRoleManager {
			managers++
			if n.Status.State != swarm.NodeStateDown {
				reachable++
			}
		}
	}
	leader, _ := c.Leader()
	return doctor.Quorum(managers, reachable, leader != "" && barrier(ctx, c) == nil)
}
