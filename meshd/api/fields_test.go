package api

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// leaves lists the fields of a type that hold values, by their path; lists and
// maps count as what they hold.
func leaves(t reflect.Type, path string) []string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return leaves(t.Elem(), path)
	case reflect.Struct:
		if t == reflect.TypeFor[netip.Addr]() || t == reflect.TypeFor[time.Duration]() {
			return []string{path}
		}
		var out []string
		for i := range t.NumField() {
			f := t.Field(i)
			next := strings.TrimPrefix(path+"."+f.Name, ".")
			if f.Anonymous {
				next = path
			}
			out = append(out, leaves(f.Type, next)...)
		}
		if t.NumField() == 0 {
			return []string{path}
		}
		return out
	default:
		return []string{path}
	}
}

// fate is what becomes of a field: it does something, which the named test
// shows, or a spec with it is refused with an error that names it.
type fate struct {
	by      string // package.Test
	refused string // JSON of a spec, merged into a good one
	says    string
}

func by(test string) fate          { return fate{by: test} }
func never(spec, says string) fate { return fate{refused: spec, says: says} }
func inContainer(fields, s string) fate {
	return never(`{"TaskTemplate":{"ContainerSpec":{`+fields+`}}}`, s)
}

// fates has each field of a service's spec, or what all those below it share.
// Those that a container gets are shown to reach the engine, one by one, by a
// test of the runner; here are the ones that it cannot see.
func fates() map[string]fate {
	return map[string]fate{
		"Name":   by("api.TestServiceLife"),
		"Labels": by("api.TestServiceLife"),

		"TaskTemplate.ContainerSpec":                           by("runner.TestEveryFieldReachesTheEngine"),
		"TaskTemplate.ContainerSpec.Isolation":                 inContainer(`"Isolation":"hyperv"`, "Isolation"),
		"TaskTemplate.ContainerSpec.Privileges.CredentialSpec": inContainer(`"Privileges":{"CredentialSpec":{"File":"x"}}`, "CredentialSpec"),
		"TaskTemplate.ContainerSpec.Configs.Runtime":           inContainer(`"Configs":[{"ConfigID":"i","ConfigName":"n","Runtime":{}}]`, "Runtime"),
		"TaskTemplate.ContainerSpec.Mounts.ClusterOptions":     inContainer(`"Mounts":[{"Type":"volume","Target":"/a","ClusterOptions":{}}]`, "ClusterOptions"),
		"TaskTemplate.PluginSpec":                              never(`{"TaskTemplate":{"PluginSpec":{}}}`, "mismatched Runtime"),
		"TaskTemplate.NetworkAttachmentSpec":                   never(`{"TaskTemplate":{"NetworkAttachmentSpec":{}}}`, "mismatched Runtime"),
		"TaskTemplate.Resources.Limits":                        by("runner.TestEveryFieldReachesTheEngine"),
		"TaskTemplate.Resources.SwapBytes":                     by("runner.TestEveryFieldReachesTheEngine"),
		"TaskTemplate.Resources.MemorySwappiness":              by("runner.TestEveryFieldReachesTheEngine"),
		"TaskTemplate.Resources.Reservations":                  by("scheduler.TestReasons"),
		"TaskTemplate.RestartPolicy":                           by("services.TestRestartPolicies"),
		"TaskTemplate.Placement.Constraints":                   by("placement.TestConstraints"),
		"TaskTemplate.Placement.Preferences":                   by("scheduler.TestPreferences"),
		"TaskTemplate.Placement.MaxReplicas":                   by("scheduler.TestHostPortsAndMaxReplicas"),
		"TaskTemplate.Placement.Platforms":                     by("placement.TestPlatforms"),
		"TaskTemplate.Networks.Target":                         by("runner.TestPlanNetworks"),
		"TaskTemplate.Networks.Aliases":                        by("runner.TestEveryFieldReachesTheEngine"),
		"TaskTemplate.Networks.DriverOpts":                     never(`{"TaskTemplate":{"Networks":[{"Target":"a","DriverOpts":{"b":"c"}}]}}`, "DriverOpts"),
		"TaskTemplate.LogDriver":                               by("runner.TestEveryFieldReachesTheEngine"),
		"TaskTemplate.ForceUpdate":                             by("services.TestStopFirstUpdateNeverStopsMoreThanAllowed"),
		"TaskTemplate.Runtime":                                 never(`{"TaskTemplate":{"Runtime":"plugin"}}`, "plugin services"),

		"Mode.Replicated":    by("services.TestReplicatedScales"),
		"Mode.Global":        by("services.TestGlobalRunsOnEveryAllowedNode"),
		"Mode.ReplicatedJob": by("services.TestReplicatedJobCompletesAFewAtATime"),
		"Mode.GlobalJob":     by("services.TestJobRunsAgain"),

		"UpdateConfig.Parallelism":     by("services.TestStopFirstUpdateNeverStopsMoreThanAllowed"),
		"UpdateConfig.Delay":           by("services.TestUpdateDelay"),
		"UpdateConfig.FailureAction":   by("services.TestFailedUpdatePauses"),
		"UpdateConfig.Monitor":         by("services.TestMonitor"),
		"UpdateConfig.MaxFailureRatio": by("services.TestFailuresBelowTheRatioAreTolerated"),
		"UpdateConfig.Order":           by("services.TestStartFirstUpdateKeepsAllRunning"),
		"RollbackConfig":               by("services.TestFailedUpdateRollsBack"),

		"EndpointSpec.Mode":  by("api.TestValidateService"),
		"EndpointSpec.Ports": by("api.TestValidateService"),
	}
}

// TestEveryFieldHasAFate: a field that a new version of the API brings is not
// ignored without a word.
func TestEveryFieldHasAFate(t *testing.T) {
	all := leaves(reflect.TypeFor[swarm.ServiceSpec](), "")
	if len(all) < 100 {
		t.Fatalf("only %d fields found: the type is read wrongly", len(all))
	}
	table := fates()
	covers := func(path, field string) bool { return field == path || strings.HasPrefix(field, path+".") }
	for _, field := range all {
		if !slices.ContainsFunc(keys(table), func(path string) bool { return covers(path, field) }) {
			t.Errorf("nobody says what becomes of %s", field)
		}
	}
	for path, f := range table {
		if !slices.ContainsFunc(all, func(field string) bool { return covers(path, field) }) {
			t.Errorf("%s is in the table, but there is no such field", path)
		}
		if f.refused == "" {
			if !testExists(t, f.by) {
				t.Errorf("%s: there is no test %s", path, f.by)
			}
			continue
		}
		if err := validateService(specOf(t, f.refused)); err == nil || !strings.Contains(err.Error(), f.says) {
			t.Errorf("%s: %v, want a refusal that says %q", path, err, f.says)
		}
	}
}

// testExists looks for package.Test in the sources.
func testExists(t *testing.T, name string) bool {
	t.Helper()
	folder, test, _ := strings.Cut(name, ".")
	if folder == "api" {
		folder = "."
	} else {
		folder = "../../orchestrator/" + folder
	}
	files, err := filepath.Glob(folder + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), "func "+test+"(t *testing.T)") {
			return true
		}
	}
	return false
}

func keys(m map[string]fate) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	return out
}
