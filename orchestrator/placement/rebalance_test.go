package placement

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"
)

func TestRebalances(t *testing.T) {
	for _, tc := range []struct {
		value  string
		change func(*swarm.ServiceSpec)
		want   string // empty: it does
	}{
		{value: "auto"},
		{value: "on", want: `label mesh.rebalance: "on" is not auto`},
		{value: "auto", want: "mode replicated", change: func(s *swarm.ServiceSpec) { s.Mode.Global = &swarm.GlobalService{} }},
		{value: "auto", want: "mode replicated", change: func(s *swarm.ServiceSpec) { s.Mode.ReplicatedJob = &swarm.ReplicatedJob{} }},
		{value: "auto", want: "restart condition is none", change: func(s *swarm.ServiceSpec) {
			s.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionNone}
		}},
	} {
		s := &swarm.ServiceSpec{Annotations: swarm.Annotations{Labels: map[string]string{LabelRebalance: tc.value}}}
		if tc.change != nil {
			tc.change(s)
		}
		on, err := Rebalances(s)
		switch {
		case tc.want == "" && (err != nil || !on):
			t.Errorf("%s: %v, %v", tc.value, on, err)
		case tc.want != "" && (err == nil || on || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v, %v, want an error with %q", tc.value, on, err, tc.want)
		}
	}
	if on, err := Rebalances(&swarm.ServiceSpec{}); on || err != nil {
		t.Errorf("a service without the label: %v, %v", on, err)
	}
}
