package api

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

const webSpec = `{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"nginx"}},"EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]}}`

func TestServiceLife(t *testing.T) {
	r := newRig(t)
	id := decode[swarm.ServiceCreateResponse](r.do("POST", "/v1.41/services/create", webSpec).want(201, "ID")).ID
	s := decode[swarm.Service](r.do("GET", "/services/web", nil).want(200, ""))
	if s.ID != id || *s.Spec.Mode.Replicated.Replicas != 1 || s.Spec.EndpointSpec.Ports[0].Protocol != "tcp" ||
		s.Spec.EndpointSpec.Mode != "vip" || s.Spec.TaskTemplate.Runtime != "container" || s.Spec.UpdateConfig != nil {
		t.Fatalf("stored: %+v", s)
	}
	full := decode[swarm.Service](r.do("GET", "/services/"+id[:8]+"?insertDefaults=true", nil).want(200, ""))
	if full.Spec.UpdateConfig == nil || full.Spec.UpdateConfig.Parallelism != 1 || *full.Spec.TaskTemplate.ContainerSpec.StopGracePeriod != defaultGrace {
		t.Fatalf("with defaults: %+v", full.Spec)
	}
	r.do("POST", "/services/create", webSpec).want(409, "service web already exists")
	r.do("POST", "/services/create", strings.Replace(webSpec, `"web"`, `"web2"`, 1)).want(400, "port '8080' is already in use by service 'web' ("+id+") as an ingress port")
	r.do("DELETE", "/services/web", nil).want(200, "")
	r.do("GET", "/services/web", nil).want(404, "service web not found")
	r.do("DELETE", "/services/web", nil).want(404, "service web not found")
}

func TestServiceUpdate(t *testing.T) {
	r := newRig(t)
	auth := base64.URLEncoding.EncodeToString([]byte(`{"username":"u"}`))
	r.do("POST", "/services/create", webSpec, "X-Registry-Auth", auth).want(201, "")
	get := func() swarm.Service { return decode[swarm.Service](r.do("GET", "/services/web", nil).want(200, "")) }
	update := func(spec swarm.ServiceSpec, query string) answer {
		return r.do("POST", fmt.Sprintf("/services/web/update?version=%d%s", get().Version.Index, query), spec)
	}
	number := func() (out uint64) {
		r.control.store.View(func(v *store.View) { out = v.ServiceByName("web").SpecVersion })
		return out
	}

	s := get()
	r.do("POST", "/services/web/update?version=x", s.Spec).want(400, "version")
	r.do("POST", "/services/web/update?version=1", s.Spec).want(500, "update out of sequence")
	update(s.Spec, "&rollback=previous").want(400, "does not have a previous spec")

	s.Spec.Mode.Replicated.Replicas = ptr(uint64(5))
	update(s.Spec, "").want(200, "Warnings")
	if s = get(); number() != 1 || *s.Spec.Mode.Replicated.Replicas != 5 || *s.PreviousSpec.Mode.Replicated.Replicas != 1 {
		t.Fatalf("scaling made version %d of the template: %+v", number(), s)
	}
	s.Spec.TaskTemplate.ForceUpdate++
	update(s.Spec, "").want(200, "")
	if number() != 2 {
		t.Fatalf("a forced update left the template at version %d", number())
	}
	s = get()
	s.Spec.TaskTemplate.ContainerSpec.Image = "nginx:2"
	update(s.Spec, "").want(200, "")
	update(swarm.ServiceSpec{}, "&rollback=previous&registryAuthFrom=previous-spec").want(200, "")
	s = get()
	if s.Spec.TaskTemplate.ContainerSpec.Image != "nginx" || s.UpdateStatus.State != swarm.UpdateStateRollbackStarted || number() != 4 {
		t.Fatalf("rolled back to %+v, version %d", s.Spec, number())
	}
	r.control.store.View(func(v *store.View) {
		for _, spec := range v.SpecsOf(s.ID) {
			if spec.RegistryAuth != auth {
				t.Errorf("version %d lost the credentials", spec.Number)
			}
		}
	})
	s.Spec.Name = "other"
	update(s.Spec, "").want(501, "renaming")
	s = get()
	s.Spec.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}}
	update(s.Spec, "").want(501, "mode change")
	update(get().Spec, "&rollback=next").want(400, "rollback")
}

func TestNewCredentialsReplaceNoTasks(t *testing.T) {
	r := newRig(t)
	r.do("POST", "/services/create", webSpec).want(201, "")
	s := decode[swarm.Service](r.do("GET", "/services/web", nil))
	auth := base64.URLEncoding.EncodeToString([]byte(`{"username":"u"}`))
	r.do("POST", fmt.Sprintf("/services/web/update?version=%d", s.Version.Index), s.Spec, "X-Registry-Auth", auth).want(200, "")
	r.control.store.View(func(v *store.View) {
		if got := v.Spec(s.ID, 1); v.ServiceByName("web").SpecVersion != 1 || got.RegistryAuth != auth {
			t.Fatalf("got %+v", got)
		}
	})
	r.do("POST", "/services/create", `{"Name":"x","TaskTemplate":{"ContainerSpec":{"Image":"nginx"}}}`, "X-Registry-Auth", "!").want(400, "X-Registry-Auth")
}

func TestServiceNetworks(t *testing.T) {
	r := newRig(t)
	nid := decode[map[string]string](r.do("POST", "/networks/create", `{"Name":"ov","Driver":"overlay"}`).want(201, "Id"))["Id"]
	with := func(name, target string) answer {
		return r.do("POST", "/services/create", fmt.Sprintf(`{"Name":%q,"TaskTemplate":{"ContainerSpec":{"Image":"nginx"},"Networks":[{"Target":%q}]}}`, name, target))
	}
	with("a", "ov").want(201, "")
	with("b", nid).want(201, "")
	with("c", "host").want(201, "")
	on := func(name, targets, ports string) answer {
		return r.do("POST", "/services/create", `{"Name":"`+name+`","TaskTemplate":{"ContainerSpec":{"Image":"nginx"},"Networks":[`+targets+`]},"EndpointSpec":{"Ports":[`+ports+`]}}`)
	}
	on("x", `{"Target":"host"},{"Target":"ov"}`, "").want(400, "network host cannot be used together with another network")
	on("x", `{"Target":"host"}`, `{"TargetPort":80}`).want(400, "in mode ingress on network host; use mode host")
	on("x", `{"Target":"bridge"}`, `{"TargetPort":80,"PublishedPort":80}`).want(400, "in mode ingress on network bridge; use mode host")
	on("x", `{"Target":"none"}`, `{"TargetPort":80,"PublishMode":"host"}`).want(400, "network none reaches nobody")
	on("x", `{"Target":"host"}`, `{"TargetPort":80,"PublishedPort":81,"PublishMode":"host"}`).want(400, "a port keeps its number")
	on("e", `{"Target":"host"}`, `{"TargetPort":80,"PublishMode":"host"}`).want(201, "")
	on("f", `{"Target":"bridge"}`, `{"TargetPort":80,"PublishedPort":8888,"PublishMode":"host"}`).want(201, "")
	on("g", `{"Target":"none"}`, "").want(201, "")
	with("d", "nope").want(404, "network nope not found")
	with("d", "mine").want(403, "The network mine cannot be used with services")
	with("d", "ingress").want(400, "ingress")
	r.do("POST", "/services/create", fmt.Sprintf(`{"Name":"old","TaskTemplate":{"ContainerSpec":{"Image":"nginx"}},"Networks":[{"Target":"ov"}]}`)).want(201, "")
	for _, name := range []string{"a", "b", "old"} {
		s := decode[swarm.Service](r.do("GET", "/services/"+name, nil))
		if got := s.Spec.TaskTemplate.Networks; len(got) != 1 || got[0].Target != nid {
			t.Errorf("%s is on %v, want %s", name, got, nid)
		}
	}
	r.do("DELETE", "/networks/ov", nil).want(400, "is in use by service")
	for _, name := range []string{"a", "b", "old"} {
		r.do("DELETE", "/services/"+name, nil).want(200, "")
	}
	r.do("DELETE", "/networks/ov", nil).want(204, "")
	r.do("GET", "/networks/ov", nil).want(404, "network ov not found")
}

// Whoever has a port is named, be it a service, a task or the swarm itself.
func TestPortsInUse(t *testing.T) {
	r := newRig(t)
	with := func(name, ports string) answer {
		return r.do("POST", "/services/create", `{"Name":"`+name+`","TaskTemplate":{"ContainerSpec":{"Image":"nginx"}},"EndpointSpec":{"Ports":[`+ports+`]}}`)
	}
	with("mesh", `{"TargetPort":80,"PublishedPort":8080}`).want(201, "")
	with("host", `{"TargetPort":80,"PublishedPort":8081,"PublishMode":"host"},{"TargetPort":81,"PublishMode":"host"}`).want(201, "")
	with("x", `{"TargetPort":80,"PublishedPort":8080}`).want(400, "port '8080' is already in use by service 'mesh'")
	with("x", `{"TargetPort":80,"PublishedPort":8080,"PublishMode":"host"}`).want(400, "port '8080' is already in use by service 'mesh'")
	with("x", `{"TargetPort":80,"PublishedPort":8081}`).want(400, "port '8081' is already in use by service 'host'")
	with("y", `{"TargetPort":80,"PublishedPort":8081,"PublishMode":"host"}`).want(201, "")
	with("y2", `{"TargetPort":80,"PublishedPort":8080,"Protocol":"udp"}`).want(201, "")
	r.change(func(tx *store.Tx) error {
		task := &store.Task{SpecVersion: 1}
		task.ID, task.ServiceID, task.Slot = "t1", tx.ServiceByName("host").ID, 1
		task.Status.State, task.DesiredState = swarm.TaskStateRunning, swarm.TaskStateRunning
		task.Status.PortStatus.Ports = []swarm.PortConfig{{TargetPort: 81, PublishedPort: 32767, PublishMode: swarm.PortConfigPublishModeHost}}
		tx.Create(task)
		return nil
	})
	with("x", `{"TargetPort":80,"PublishedPort":32767}`).want(400, "port '32767' is already in use by task 'host.1.t1' on its node")
	with("z", `{"TargetPort":80,"PublishedPort":32767,"Protocol":"udp"}`).want(201, "")
	with("x", `{"TargetPort":80,"PublishedPort":2377}`).want(400, "by the swarm itself, for its managers")
	with("x", `{"TargetPort":80,"PublishedPort":4789,"Protocol":"udp","PublishMode":"host"}`).want(400, "by the swarm itself, for overlay networks")
	with("x", `{"TargetPort":80,"PublishedPort":7946}`).want(400, "by the swarm itself, for nodes to watch each other")
}

// Other ports in mode host replace the tasks: the scheduler must place them anew.
func TestNewHostPortsAreANewVersion(t *testing.T) {
	r := newRig(t)
	body := func(ports string) string {
		return `{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"nginx"}},"EndpointSpec":{"Ports":[` + ports + `]}}`
	}
	r.do("POST", "/services/create", body(`{"TargetPort":80,"PublishedPort":8080}`)).want(201, "")
	version := func() (n uint64, index uint64) {
		r.change(func(tx *store.Tx) error {
			n, index = tx.ServiceByName("web").SpecVersion, tx.ServiceByName("web").Version.Index
			return nil
		})
		return n, index
	}
	update := func(ports string) uint64 {
		_, index := version()
		r.do("POST", fmt.Sprintf("/services/web/update?version=%d", index), body(ports)).want(200, "")
		n, _ := version()
		return n
	}
	if n := update(`{"TargetPort":80,"PublishedPort":9090}`); n != 1 {
		t.Errorf("another port in mode ingress: version %d, want 1", n)
	}
	if n := update(`{"TargetPort":80,"PublishedPort":9090,"PublishMode":"host"}`); n != 2 {
		t.Errorf("a port in mode host: version %d, want 2", n)
	}
	if n := update(`{"TargetPort":80,"PublishedPort":9090,"PublishMode":"host"},{"TargetPort":81}`); n != 2 {
		t.Errorf("one more in mode ingress: version %d, want 2", n)
	}
}

func TestListsAndFilters(t *testing.T) {
	r := newRig(t)
	r.do("POST", "/services/create", webSpec).want(201, "")
	r.do("POST", "/services/create", `{"Name":"agent","Labels":{"tier":"x"},"TaskTemplate":{"ContainerSpec":{"Image":"nginx"}},"Mode":{"Global":{}}}`).want(201, "")
	web := decode[swarm.Service](r.do("GET", "/services/web", nil))
	task := func(id string, slot int, version uint64, state, desired swarm.TaskState) *store.Task {
		o := &store.Task{SpecVersion: version}
		o.ID, o.ServiceID, o.Slot, o.NodeID, o.Status.State, o.DesiredState = id, web.ID, slot, "node1id", state, desired
		return o
	}
	r.create(task("task1", 1, 1, "running", "running"), task("task2", 1, 0, "failed", "shutdown"))

	names := func(path string, filters string) string {
		t.Helper()
		var out []string
		for _, s := range decode[[]swarm.Service](r.do("GET", path+"?filters="+url.QueryEscape(filters), nil).want(200, "")) {
			out = append(out, s.Spec.Name)
		}
		return strings.Join(out, " ")
	}
	for filters, want := range map[string]string{
		`{"name":{"we":true}}`:       "web",
		`{"name":["we"]}`:            "web",
		`{"mode":["global"]}`:        "agent",
		`{"label":["tier=x"]}`:       "agent",
		`{"label":["tier"]}`:         "agent",
		`{"label":["tier=y"]}`:       "",
		`{"id":["` + web.ID + `"]}`:  "web",
		`{"runtime":["plugin"]}`:     "",
		`{"name":{"agent":true}}`:    "agent",
		`{"name":["agent","none"]}`:  "agent",
		`{"name":{"we":false}}`:      "agent web",
		`{"label":["tier","other"]}`: "",
	} {
		if got := names("/services", filters); strings.Join(sortedWords(got), " ") != want {
			t.Errorf("%s: got %q, want %q", filters, got, want)
		}
	}
	r.do("GET", "/services?filters="+url.QueryEscape(`{"foo":["x"]}`), nil).want(400, "Invalid filter 'foo'")
	r.do("GET", "/services?filters=x", nil).want(400, "invalid filters")

	for _, s := range decode[[]swarm.Service](r.do("GET", "/services?status=true", nil)) {
		if s.Spec.Name == "web" && (s.ServiceStatus == nil || s.ServiceStatus.RunningTasks != 1 || s.ServiceStatus.DesiredTasks != 1) {
			t.Errorf("status: %+v", s.ServiceStatus)
		}
	}
	tasks := func(filters string) int {
		t.Helper()
		return len(decode[[]swarm.Task](r.do("GET", "/tasks?filters="+url.QueryEscape(filters), nil).want(200, "")))
	}
	for filters, want := range map[string]int{
		``: 2, `{"service":["web"]}`: 2, `{"service":["web"],"desired-state":["running"]}`: 1, `{"_up-to-date":{"true":true}}`: 1,
		`{"node":["node1"]}`: 2, `{"node":["node2"]}`: 0, `{"name":["web.1"]}`: 2, `{"name":["task1"]}`: 0, `{"id":["task1"]}`: 1,
	} {
		if got := tasks(filters); got != want {
			t.Errorf("%s: %d tasks, want %d", filters, got, want)
		}
	}
	r.do("GET", "/tasks?filters="+url.QueryEscape(`{"service":["nope"]}`), nil).want(404, "service nope not found")
	one := decode[swarm.Task](r.do("GET", "/tasks/task1", nil).want(200, ""))
	if one.Spec.ContainerSpec == nil || one.Spec.ContainerSpec.Image != "nginx" {
		t.Errorf("the task came without its spec: %+v", one)
	}
	r.do("GET", "/tasks/task", nil).want(400, "task task is ambiguous (2 matches found)")
	r.do("GET", "/tasks/nope", nil).want(404, "task nope not found")
}

// TestSpecNumbersCountOn: the control loops set a service back to an older
// version when an update fails; the next one may not take a number that is used.
func TestSpecNumbersCountOn(t *testing.T) {
	r := newRig(t)
	r.do("POST", "/services/create", webSpec).want(201, "")
	update := func(image string) {
		t.Helper()
		s := decode[swarm.Service](r.do("GET", "/services/web", nil))
		s.Spec.TaskTemplate.ContainerSpec.Image = image
		r.do("POST", fmt.Sprintf("/services/web/update?version=%d", s.Version.Index), s.Spec).want(200, "")
	}
	numbers := func() (current uint64, images []string) {
		r.control.store.View(func(v *store.View) {
			s := v.ServiceByName("web")
			current = s.SpecVersion
			for n := range uint64(9) {
				if o := v.Spec(s.ID, n); o != nil {
					images = append(images, fmt.Sprintf("%d=%s", n, o.Template.ContainerSpec.Image))
				}
			}
		})
		return current, images
	}
	update("nginx:2")
	update("nginx:3")
	r.change(func(tx *store.Tx) error {
		s := *tx.ServiceByName("web")
		s.SpecVersion = 1
		tx.Update(&s)
		return nil
	})
	update("nginx:4")
	if current, images := numbers(); current != 4 || strings.Join(images, " ") != "1=nginx 2=nginx:2 3=nginx:3 4=nginx:4" {
		t.Fatalf("at version %d of %v", current, images)
	}
}

// A virtual IP that cannot be had is refused when it is asked for, and changes nothing.
func TestServiceAsksForItsVirtualIP(t *testing.T) {
	r := newRig(t)
	r.do("POST", "/networks/create", `{"Name":"front","Driver":"overlay","IPAM":{"Config":[{"Subnet":"10.7.0.0/24","Gateway":"10.7.0.1"}]}}`).want(201, "")
	spec := func(name, vip string) string {
		return `{"Name":"` + name + `","Labels":{"mesh.vip":"` + vip + `"},"TaskTemplate":{"ContainerSpec":{"Image":"i"},"Networks":[{"Target":"front"}]}}`
	}
	id := decode[swarm.ServiceCreateResponse](r.do("POST", "/services/create", spec("web", "10.7.0.50")).want(201, "")).ID
	r.do("POST", "/services/create", spec("db", "10.7.0.50")).want(400, "label mesh.vip: 10.7.0.50 of network front is in use by service web")
	r.do("POST", "/services/create", spec("db", "10.8.0.50")).want(400, "10.8.0.50 is not an address of any network of the service")
	version := decode[swarm.Service](r.do("GET", "/services/web", nil).want(200, "")).Version.Index
	update := fmt.Sprintf("/services/%s/update?version=%d", id, version)
	r.do("POST", update, spec("web", "10.7.0.1")).want(400, "10.7.0.1 is the gateway of network front")
	r.do("POST", update, spec("web", "front=10.7.0.50")).want(200, "")
}

func TestInspectShowsWhereAScheduleStands(t *testing.T) {
	r := newRig(t)
	o := &store.Service{Schedule: &store.Schedule{Since: time.Date(2026, 11, 21, 5, 0, 0, 0, time.UTC), Skipped: 3}}
	o.ID, o.Spec.Name = "tickid", "tick"
	r.create(o)
	r.do("GET", "/services/tick", nil).want(200, `"Schedule":{"Since":"2026-11-21T05:00:00Z","Skipped":3}`)
}
