package plan

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// LabelNodeWeight is the label of a node that says what share of connections its
// tasks get, beside those of other nodes, which have 1 without it. Zero: no new ones.
const LabelNodeWeight = "mesh.weight"

// labelWeight is the label of a service that has other weights than the nodes':
// "even", or a property of nodes, in the words of placement constraints, and the
// weight for each of its values:
//
//	node.labels.tier:big=4,small=1
//	node.hostname:pi=1,*=8
const labelWeight = "mesh.lb.weight"

const (
	evenWeights  = "even"
	nodeHostname = "node.hostname"
	nodeLabel    = "node.labels."
	anyValue     = "*"
)

// weights say what share a node's tasks get of a service's connections. The zero value
// leaves that to the nodes' own labels.
type weights struct {
	of      string // the property of nodes; empty: the nodes' own weight, or even
	even    bool
	byValue map[string]uint16
}

// CheckNodeWeight says what is wrong with a node's label.
func CheckNodeWeight(labels map[string]string) error {
	v, ok := labels[LabelNodeWeight]
	if _, valid := weight(v); ok && !valid {
		return fmt.Errorf("label %s=%s: must be a number from 0 to %d", LabelNodeWeight, v, ipvs.MaxWeight)
	}
	return nil
}

func weight(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n <= ipvs.MaxWeight
}

// weightsOf reads a service's label.
func weightsOf(labels map[string]string) (weights, error) {
	v, ok := labels[labelWeight]
	if !ok {
		return weights{}, nil
	}
	if v == evenWeights {
		return weights{even: true}, nil
	}
	of, list, _ := strings.Cut(v, ":")
	w := weights{of: of, byValue: map[string]uint16{}}
	wrong := fmt.Errorf("label %s=%s: must be %s, or such as node.labels.tier:big=4,small=1 or %s:pi=1,%s=8, with weights from 0 to %d",
		labelWeight, v, evenWeights, nodeHostname, anyValue, ipvs.MaxWeight)
	if of != nodeHostname && (!strings.HasPrefix(of, nodeLabel) || of == nodeLabel) {
		return weights{}, wrong
	}
	for _, pair := range strings.Split(list, ",") {
		value, text, _ := strings.Cut(pair, "=")
		n, valid := weight(text)
		if _, twice := w.byValue[value]; !valid || value == "" || twice {
			return weights{}, wrong
		}
		w.byValue[value] = n
	}
	return w, nil
}

// on gives the weight of a node's tasks; zero: they get no new connections.
func (w weights) on(n protocol.Node) uint16 {
	switch {
	case w.even:
		return 1
	case w.of == "":
		if own, valid := weight(n.Labels[LabelNodeWeight]); valid {
			return own
		}
		return 1
	}
	value := n.Hostname
	if label, ok := strings.CutPrefix(w.of, nodeLabel); ok {
		value = n.Labels[label]
	}
	for _, v := range []string{value, anyValue} {
		if n, ok := w.byValue[v]; ok {
			return n
		}
	}
	return 1
}
