package churn

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meshd/meshd/meshd/observe"
)

// What daemons say when they are late, or take others for dead.
const (
	hurriedMessage = "stopping a task that some nodes may still send connections to"
	maskedMessage  = "a node does not answer any more"
)

// managers are the nodes that watch what others have acknowledged.
var managers = []string{"node1", "node2", "node3"}

// acknowledged waits until every node has acknowledged all that managers know, and returns when that was.
func (s *scene) acknowledged(st step) time.Time {
	if err := s.until("all nodes know", s.allKnow); err != nil {
		s.t.Fatalf("%v: %v", st, err)
	}
	return time.Now()
}

// allKnow asks the managers; each answers for the nodes whose sessions it has.
func (s *scene) allKnow() error {
	var seen []string
	for _, m := range managers {
		var lags observe.Lags
		if err := s.ask(m, "/mesh/net/lags", &lags); err != nil {
			return err
		}
		for _, l := range lags.Lags {
			return fmt.Errorf("%s holds revision %d of network %s, and not yet %d", s.hostname(l.Node), l.Held, l.Network, l.Revision)
		}
		seen = append(seen, lags.Watched...)
	}
	for id, name := range s.hosts {
		if !slices.Contains(seen, id) {
			return fmt.Errorf("%s has no session with a manager", name)
		}
	}
	return nil
}

// check has the nodes with clients compare their kernels with what the managers want.
func (s *scene) check(st step) {
	for _, node := range quiet {
		if err := s.until("the kernel of "+node+" is as it should be", func() error {
			var report observe.Report
			if err := s.ask(node, "/mesh/net/check", &report); err != nil {
				return err
			}
			if len(report.Differences) > 0 {
				return fmt.Errorf("%+v", report.Differences)
			}
			return nil
		}); err != nil {
			s.t.Errorf("%v: %v", st, err)
		}
	}
}

// ask gets one of our own paths from a node's daemon.
func (s *scene) ask(node, path string, out any) error {
	c := s.lab.MeshdHTTP(node)
	c.Timeout = 10 * time.Second
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "http://meshd"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s answers %s", node, path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// excuses are what a machine with too much to do may bring about, by design.
type excuses struct {
	// hurry: a task was stopped before all nodes had acknowledged that it drains; those that are late for two seconds are not waited for.
	hurry bool
	// alarm: a node with clients took another for dead that was not cut off, and left it out of its names meanwhile.
	alarm bool
	// starved: somebody waited for a processor nearly all the time (PSI), so that a task may be asked to end before it has accepted what its
	// kernel has, or not answer for seconds.
	starved bool
}

// pressed is the share of ten seconds, in percent, beyond which a machine counts as starved. With two processors and nothing else to do the
// test itself makes about a half of that.
const pressed = 90

// starved reads the kernel's pressure stall information: "some avg10=98.37 avg60=...".
func starved() bool {
	text, err := os.ReadFile("/proc/pressure/cpu")
	var percent float64
	if _, serr := fmt.Sscanf(string(text), "some avg10=%f", &percent); err != nil || serr != nil {
		return false // a kernel without it
	}
	return percent > pressed
}

// excuses looks for them in what the daemons said since the beginning of a change.
func (s *scene) excuses(c change) (out excuses) {
	out.starved = starved()
	for _, node := range s.hosts {
		lines, err := s.lab.Said(node, c.from)
		if err != nil {
			s.t.Error(err)
		}
		for _, line := range lines {
			out.hurry = out.hurry || strings.Contains(line, hurriedMessage)
			known := c.step.node != "" && strings.Contains(line, "node="+s.ids[c.step.node])
			out.alarm = out.alarm || slices.Contains(quiet, node) && strings.Contains(line, maskedMessage) && !known
		}
	}
	return out
}
