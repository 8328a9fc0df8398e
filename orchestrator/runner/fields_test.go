package runner

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/agent"
	"github.com/meshd/meshd/orchestrator/protocol"
)

// field is one value of a task's template: how to set it, and its path.
type field struct {
	path string
	set  func(*swarm.TaskSpec)
}

// samples are values for fields that take no other.
func samples() map[string]any {
	return map[string]any{
		"ContainerSpec.Hosts":                    "10.9.9.9 other",
		"ContainerSpec.Privileges.AppArmor.Mode": swarm.AppArmorModeDisabled,
	}
}

// fieldsOf lists the fields below a type; get reaches the value in a spec, and
// makes what lies on the way there.
func fieldsOf(t reflect.Type, path string, get func(*swarm.TaskSpec) reflect.Value) []field {
	switch {
	case t == reflect.TypeFor[netip.Addr]():
		return []field{{path, func(s *swarm.TaskSpec) { get(s).Set(reflect.ValueOf(netip.MustParseAddr("10.8.8.8"))) }}}
	case t.Kind() == reflect.Pointer:
		return fieldsOf(t.Elem(), path, func(s *swarm.TaskSpec) reflect.Value {
			v := get(s)
			next := reflect.New(t.Elem())
			if !v.IsNil() {
				next.Elem().Set(v.Elem()) // a copy: other specs share it
			}
			v.Set(next)
			return next.Elem()
		})
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		return fieldsOf(t.Elem(), path, func(s *swarm.TaskSpec) reflect.Value {
			v := get(s)
			next := reflect.MakeSlice(t, max(v.Len(), 1), max(v.Len(), 1))
			reflect.Copy(next, v)
			v.Set(next)
			return next.Index(0)
		})
	case t.Kind() == reflect.Struct:
		var out []field
		for i := range t.NumField() {
			f := t.Field(i)
			out = append(out, fieldsOf(f.Type, strings.TrimPrefix(path+"."+f.Name, "."), func(s *swarm.TaskSpec) reflect.Value { return get(s).Field(i) })...)
		}
		return out
	}
	return []field{{path, func(s *swarm.TaskSpec) { change(path, get(s)) }}}
}

// change gives a value that it had not.
func change(path string, v reflect.Value) {
	if sample, ok := samples()[path]; ok {
		v.Set(reflect.ValueOf(sample))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "7")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 7e9)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(v.Uint() ^ 0o111)
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		m.SetMapIndex(reflect.ValueOf("key"), reflect.ValueOf("value"))
		v.Set(m)
	case reflect.Slice: // of bytes
		v.SetBytes([]byte(`{"a":1}`))
	default:
		panic(fmt.Sprintf("%s: no value of kind %s", path, v.Kind()))
	}
}

// effect is all that a task's template leads to on the node.
func effect(t agent.Task) string {
	p, err := makePlan(t, "")
	files, ferr := filesOf(t)
	out, jerr := json.Marshal(p)
	return fmt.Sprintf("%s %v %+v %v %v", out, err, files, ferr, jerr)
}

// bases are two tasks that show, between them, what all fields do: one on no
// network, one on a network of the cluster.
func bases() []agent.Task {
	alone := testTask("t")
	give(&alone, secretKey("key"), "sesame")
	give(&alone, configKey("conf"), "text")
	spec := alone.Task.Spec.ContainerSpec
	spec.Privileges = &swarm.Privileges{Seccomp: &swarm.SeccompOpts{Mode: swarm.SeccompModeCustom}}
	spec.Hosts, spec.Ulimits = []string{"10.1.1.1 db"}, []*container.Ulimit{{Name: "nofile"}}
	alone.Task.Spec.Resources = &swarm.ResourceRequirements{Limits: &swarm.Limit{MemoryBytes: 64 << 20}}
	ov := stubNetwork("o", "ov", 4097, "10.0.1.0/24", false)
	attached := meshTask("t", map[string]protocol.Network{"10.0.1.9/24": ov}, "10.0.1.9/24")
	attached.Task.Spec.Networks = []swarm.NetworkAttachmentConfig{{Target: "ov"}}
	return []agent.Task{alone, attached}
}

// elsewhere are fields that a container does not show, and why; other tests are
// about them, and package api lists those.
func elsewhere() map[string]string {
	return map[string]string{
		"ContainerSpec.Privileges.CredentialSpec": "refused by the API",
		"ContainerSpec.Configs.Runtime":           "refused by the API",
		"ContainerSpec.Secrets.SecretName":        "names it in errors only",
		"ContainerSpec.Configs.ConfigName":        "names it in errors only",
		"ContainerSpec.Mounts.ClusterOptions":     "refused by the API",
		"PluginSpec":                              "refused by the API",
		"NetworkAttachmentSpec":                   "refused by the API",
		"Resources.Reservations.NanoCPUs":         "the scheduler's",
		"Resources.Reservations.GenericResources": "the scheduler's; the task has what it was given",
		"RestartPolicy":                           "the service loop's",
		"Placement":                               "the scheduler's",
		"Networks.DriverOpts":                     "refused by the API",
		"ForceUpdate":                             "a new version of the template, and nothing else",
		"Runtime":                                 "refused by the API unless it is container",
	}
}

// TestEveryFieldReachesTheEngine sets each field of a template, one by one, and
// wants the container that is made, or its files, to differ.
func TestEveryFieldReachesTheEngine(t *testing.T) {
	all := fieldsOf(reflect.TypeFor[swarm.TaskSpec](), "", func(s *swarm.TaskSpec) reflect.Value { return reflect.ValueOf(s).Elem() })
	if len(all) < 90 {
		t.Fatalf("only %d fields found: the type is read wrongly", len(all))
	}
	known := elsewhere()
	excused := func(path string) bool {
		for k := range known {
			if path == k || strings.HasPrefix(path, k+".") {
				return true
			}
		}
		return false
	}
	for _, f := range all {
		acts := slices.ContainsFunc(bases(), func(task agent.Task) bool {
			before := effect(task)
			container := *task.Task.Spec.ContainerSpec
			task.Task.Spec.ContainerSpec = &container
			f.set(&task.Task.Spec)
			return effect(task) != before
		})
		if !acts && !excused(f.path) {
			t.Errorf("%s is set, and nothing comes of it", f.path)
		}
		if why := known[f.path]; acts && why != "" && !strings.HasPrefix(why, "refused") && !strings.HasPrefix(why, "names it") {
			t.Errorf("%s does something: it is wrong in the list of those that do not", f.path)
		}
	}
}

func TestOldEnginesAreNotAskedForWhatTheyIgnore(t *testing.T) {
	for _, tc := range []struct{ version, want string }{
		{"1.41", "mount /a: VolumeOptions.Subpath needs an engine with API 1.45"}, {"1.44", "API 1.45"}, {"1.45", ""}, {"1.50", ""}, {"2.0", ""},
	} {
		err := checkEngine([]need{{false, "Other", "9.9"}, {true, "mount /a: VolumeOptions.Subpath", "1.45"}}, tc.version)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.version, err, tc.want)
		}
	}
}

func TestGrantedResourcesAreInTheEnvironment(t *testing.T) {
	task := testTask("t")
	task.Task.Spec.ContainerSpec.Env = []string{"A=b"}
	named := func(v string) swarm.GenericResource {
		return swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: "gpu", Value: v}}
	}
	task.Task.GenericResources = []swarm.GenericResource{named("u1"), named("u2"),
		{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "ssd", Value: 3}}}
	p, err := makePlan(task, "")
	if want := []string{"A=b", "DOCKER_RESOURCE_GPU=u1,u2", "DOCKER_RESOURCE_SSD=3"}; err != nil || !slices.Equal(p.Create.Config.Env, want) {
		t.Errorf("%v %v, want %v", p.Create.Config.Env, err, want)
	}
}

func TestDevicesOnlyWhereTheNodeAllows(t *testing.T) {
	task := testTask("t")
	task.Task.Spec.ContainerSpec.Labels = map[string]string{"mesh.devices": "/dev/fuse", "mesh.privileged": "true"}
	p, err := makePlan(task, "")
	if err != nil || !p.Create.HostConfig.Privileged || len(p.Create.HostConfig.Devices) != 1 || p.Create.HostConfig.Devices[0].CgroupPermissions != "rwm" {
		t.Errorf("%+v %v", p.Create.HostConfig, err)
	}
	r := &Runner{}
	if err := r.admit(t.Context(), p); err == nil || !strings.Contains(err.Error(), "--allow-privileged") {
		t.Errorf("%v", err)
	}
	r.cfg.AllowPrivileged = true
	if err := r.admit(t.Context(), p); err != nil {
		t.Error(err)
	}
}
