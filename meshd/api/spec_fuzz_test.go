package api

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// A service's spec, whatever it holds, makes a service that can be read again and
// updated with what was read, or is refused, and then changes nothing.
func FuzzServiceSpec(f *testing.F) {
	for _, seed := range []string{
		webSpec, "", "null", "{}", "[]", `{"Name":"a"}`, `{"Name":"a","TaskTemplate":{"ContainerSpec":null}}`,
		`{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"x","Mounts":[{"Type":"volume","Target":"/a","VolumeOptions":{"DriverConfig":null}}]}}}`,
		`{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"x","Healthcheck":{"Test":["CMD"],"Interval":-1}}},"Mode":{"Replicated":{"Replicas":18446744073709551615}}}`,
		`{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"x","Secrets":[null],"Configs":[{"ConfigID":"x"}]}}}`,
		`{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"x"},"Networks":[{"Target":"ingress"}],"Placement":{"Preferences":[{}],"Constraints":["a=b"]}}}`,
		`{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"x"}},"EndpointSpec":{"Mode":"dnsrr","Ports":[{"TargetPort":4294967295}]}}`,
		`{"Name":"a","Labels":{"mesh.schedule":"* * * * *","mesh.rebalance":"auto"},"TaskTemplate":{"ContainerSpec":{"Image":"x"}},"Mode":{"GlobalJob":{}}}`,
		`{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"x"},"Resources":{"Limits":{"NanoCPUs":-1},"Reservations":{"GenericResources":[{}]}}},"UpdateConfig":{"MaxFailureRatio":2}}`,
	} {
		f.Add(seed)
	}
	shared := newRig(f)
	f.Fuzz(func(t *testing.T, body string) {
		one := *shared
		r := &one
		r.t = t
		before := r.picture()
		created := r.do("POST", "/services/create", body)
		if created.status != http.StatusCreated {
			if created.status < 400 || created.status >= 500 && created.status != http.StatusNotImplemented {
				t.Errorf("answered %d: %s", created.status, created.body)
			}
			if r.picture() != before {
				t.Error("a spec that was refused changed the state")
			}
			return
		}
		made := decode[swarm.ServiceCreateResponse](created)
		s := decode[swarm.Service](r.do("GET", "/services/"+made.ID, nil).want(200, ""))
		r.do("POST", fmt.Sprintf("/services/%s/update?version=%d", made.ID, s.Version.Index), s.Spec).want(200, "")
		r.do("DELETE", "/services/"+made.ID, nil).want(200, "")
		r.change(func(tx *store.Tx) error { // the reaper's work
			for _, spec := range tx.SpecsOf(made.ID) {
				tx.Remove(spec)
			}
			return nil
		})
		if r.picture() != before {
			t.Error("the service left something behind")
		}
	})
}

// picture is all that the store holds, but for its index.
func (r *rig) picture() string {
	r.t.Helper()
	var b bytes.Buffer
	if err := r.control.store.Snapshot()(&b); err != nil {
		r.t.Fatal(err)
	}
	_, rows, _ := strings.Cut(b.String(), "\n")
	return rows
}
