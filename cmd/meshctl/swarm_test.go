package main

import (
	"context"
	"errors"
	"testing"

	"github.com/moby/moby/client"
)

// founder notes what swarm is asked for, and makes none.
type founder struct {
	client.APIClient
	asked []client.SwarmInitOptions
}

var errFounder = errors.New("none is made")

func (f *founder) SwarmInit(_ context.Context, o client.SwarmInitOptions) (client.SwarmInitResult, error) {
	f.asked = append(f.asked, o)
	return client.SwarmInitResult{}, errFounder
}

func TestInitSaysWhichNetworksAreEncrypted(t *testing.T) {
	for _, c := range []struct {
		args  []string
		asked int
		label string
	}{
		{nil, 1, ""},
		{[]string{"--encrypt", "all"}, 1, "all"},
		{[]string{"--encrypt=opt-in"}, 1, "opt-in"},
		{[]string{"--encrypt="}, 0, ""},
		{[]string{"--encrypt", "some"}, 0, ""},
	} {
		var f founder
		cmd := initCommand(&otherAPI{Cli: newTestCLI(t), client: &f})
		if err := cmd.ParseFlags(append(c.args, "--advertise-addr", "192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		err := cmd.RunE(cmd, nil)
		if err == nil || len(f.asked) != c.asked {
			t.Errorf("%q: %v, asked for %+v", c.args, err, f.asked)
			continue
		}
		for _, o := range f.asked {
			if got, said := o.Spec.Labels["mesh.encrypt"]; got != c.label || said != (c.label != "") || o.AdvertiseAddr != "192.0.2.1" || !errors.Is(err, errFounder) {
				t.Errorf("%q: %v, asked for %+v", c.args, err, o)
			}
		}
	}
}
