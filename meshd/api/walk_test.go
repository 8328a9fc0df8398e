package api

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

// call is one request of a walk and what it has to give.
type call struct {
	request string // method and path; {v:PATH} stands for the version of the object there
	body    string
	status  int
	says    string // part of the message if the status is an error's, else of the body
}

const (
	otherSpec = `{"Name":"other","TaskTemplate":{"ContainerSpec":{"Image":"nginx","Secrets":[],"Configs":[]}}}`
	nodeSpec  = `{"Role":"worker","Availability":"pause","Labels":{"tier":"x"}}`
	secretA   = `{"Name":"a","Data":"aGk=","Labels":{"k":"v"}}`
	relabel   = `{"Name":"a","Labels":{"k":"w"}}`
	redata    = `{"Name":"a","Data":"b3RoZXI=","Labels":{"k":"w"}}`
	sequence  = "update out of sequence"
)

// filtered asks for a list with one filter.
func filtered(path, key, value string) string {
	return fmt.Sprintf(`GET %s?filters={%q:{%q:true}}`, path, key, value)
}

// theWalk visits each endpoint of the swarm part of the API with each of its parameters
// and answers, in an order in which one can be had after the other.
func theWalk() []call {
	walk := []call{
		{"GET /_ping", "", 200, "OK"}, {"HEAD /_ping", "", 200, ""},
		{"GET /version", "", 200, `"MinAPIVersion":"1.25"`}, {"GET /info", "", 200, `"ControlAvailable":true`},
		{"GET /events?since=1&until=2", "", 200, ""}, {"GET /events?since=x", "", 400, "since"},
		{"GET /distribution/nginx/json", "", 200, "digest"}, {"GET /system/df", "", 200, ""},

		{"GET /swarm", "", 200, "SWMTKN-1-digest-workersecret"},
		{"POST /swarm/init", `{}`, 503, "already part of a swarm"}, {"POST /swarm/init", `{`, 400, "invalid JSON"},
		{"POST /swarm/join", `{}`, 503, "already part of a swarm"}, {"POST /swarm/leave", "", 503, "participating as a manager"},
		{"POST /swarm/update", `{}`, 400, "version"}, {"POST /swarm/update?version=x", `{}`, 400, "version"},
		{"POST /swarm/update?version=999999", `{}`, 500, sequence}, {"POST /swarm/update?version=1", `{"Name":"mine"}`, 400, "default"},
		{"POST /swarm/update?version=1&rotateWorkerToken=maybe", `{}`, 400, "rotateWorkerToken"},
		{"POST /swarm/update?version={v:/swarm}&rotateWorkerToken=true&rotateManagerToken=1&rotateManagerUnlockKey=false", `{}`, 200, ""},
		{"GET /swarm/unlockkey", "", 200, `{"UnlockKey":""}`}, {"POST /swarm/unlock", `{"UnlockKey":"k"}`, 409, "swarm is not locked"},

		{"GET /nodes", "", 200, "node2"}, {filtered("/nodes", "id", "node2i"), "", 200, "node2"}, {filtered("/nodes", "name", "no"), "", 200, "node2"},
		{filtered("/nodes", "role", "manager"), "", 200, "node1"}, {filtered("/nodes", "membership", "accepted"), "", 200, "node1"},
		{filtered("/nodes", "node.label", "tier"), "", 200, "[]"}, {filtered("/nodes", "label", "disk=ssd"), "", 200, "[]"},
		{filtered("/nodes", "role", "boss"), "", 400, "boss"}, {filtered("/nodes", "foo", "x"), "", 400, "Invalid filter 'foo'"},
		{"GET /nodes?filters=nonsense", "", 400, "filters"},
		{"GET /nodes/node2", "", 200, `"Hostname":"node2"`}, {"GET /nodes/nope", "", 404, "node nope not found"}, {"GET /nodes/node", "", 400, "ambiguous (2 matches found)"},
		{"POST /nodes/node2/update", nodeSpec, 400, "version"}, {"POST /nodes/node2/update?version=999999", nodeSpec, 500, sequence},
		{"POST /nodes/node2/update?version=1", `{"Role":"boss"}`, 400, "Role"}, {"POST /nodes/nope/update?version=1", nodeSpec, 404, "not found"},
		{"POST /nodes/node2/update?version={v:/nodes/node2}", nodeSpec, 200, ""}, {filtered("/nodes", "node.label", "tier=x"), "", 200, "node2"},
		{"POST /nodes/node1/update?version={v:/nodes/node1}", nodeSpec, 400, "last manager"},
		{"DELETE /nodes/node1?force=1", "", 400, "is a cluster manager"}, {"DELETE /nodes/node2", "", 400, "is not down"}, {"DELETE /nodes/nope", "", 404, "not found"},

		{"POST /networks/create", `{"Name":"ov","Driver":"overlay","Labels":{"k":"v"}}`, 201, `"Id":"`},
		{"POST /networks/create", `{"Name":"ov","Driver":"overlay"}`, 409, "network with name ov already exists"},
		{"POST /networks/create", `{"Name":"x","Driver":"overlay","Ingress":true}`, 409, "ingress"}, {"POST /networks/create", `[`, 400, "invalid JSON"},
		{"GET /networks", "", 200, "bridge"}, {filtered("/networks", "scope", "swarm"), "", 200, "ov"}, {filtered("/networks", "driver", "overlay"), "", 200, "ov"},
		{filtered("/networks", "name", "o"), "", 200, "ov"}, {filtered("/networks", "label", "k=v"), "", 200, "ov"},
		{filtered("/networks", "dangling", "true"), "", 200, "ov"}, {filtered("/networks", "type", "custom"), "", 200, "ov"},
		{"GET /networks/ov", "", 200, `"Scope":"swarm"`}, {"GET /networks/ov?verbose=true&scope=swarm", "", 200, "overlay"}, {"GET /networks/ov?verbose=maybe", "", 400, "verbose"},
		{"GET /networks/nope", "", 404, "not found"}, {"GET /networks/mine?scope=swarm", "", 404, "not found"}, {"GET /networks/mine?scope=local", "", 200, "mineid"},
		{"POST /networks/ov/connect", `{"Container":"nope"}`, 404, ""}, {"POST /networks/mine/disconnect", `{"Container":"c1"}`, 201, "disconnect"},

		{"POST /services/create", webSpec, 201, `"ID":"`}, {"POST /services/create", webSpec, 409, "service web already exists"},
		{"POST /services/create", strings.Replace(webSpec, `"web"`, `"web2"`, 1), 400, "port '8080' is already in use by service 'web'"},
		{"POST /services/create", `{"Name":"a b","TaskTemplate":{"ContainerSpec":{"Image":"i"}}}`, 400, "DNS"},
		{"POST /services/create", `{"Name":"x"}`, 400, "mismatched Runtime"}, {"POST /services/create", `{"Name":"x","TaskTemplate":{"ContainerSpec":{}}}`, 400, "image"},
		{"POST /services/create", `{"Name":"x","TaskTemplate":{"ContainerSpec":{"Image":"i"},"Networks":[{"Target":"nope"}]}}`, 404, "nope"},
		{"POST /services/create", `{"Name":"x","TaskTemplate":{"ContainerSpec":{"Image":"i"},"Networks":[{"Target":"mine"}]}}`, 403, "cannot be used with services"},
		{"POST /services/create", `{"Name":"x","TaskTemplate":{"ContainerSpec":{"Image":"i"}}} {}`, 400, "invalid JSON"},
		{"GET /services", "", 200, "web"}, {"GET /services?status=true", "", 200, `"DesiredTasks":1`}, {"GET /services?status=maybe", "", 400, "status"},
		{filtered("/services", "name", "we"), "", 200, "web"}, {filtered("/services", "id", "{id:/services/web}"), "", 200, "web"}, {filtered("/services", "label", "k"), "", 200, "[]"},
		{filtered("/services", "mode", "global"), "", 200, "[]"}, {filtered("/services", "mode", "odd"), "", 400, "odd"}, {filtered("/services", "runtime", "container"), "", 200, "web"},
		{filtered("/services", "foo", "x"), "", 400, "Invalid filter 'foo'"},
		{"GET /services/web", "", 200, `"Name":"web"`}, {"GET /services/web?insertDefaults=true", "", 200, `"StopGracePeriod":`}, {"GET /services/web?insertDefaults=2", "", 400, "insertDefaults"},
		{"GET /services/nope", "", 404, "service nope not found"},
		{"POST /services/web/update", webSpec, 400, "version"}, {"POST /services/web/update?version=999999", webSpec, 500, sequence},
		{"POST /services/nope/update?version=1", otherSpec, 404, "not found"}, {"POST /services/web/update?version={v:/services/web}", otherSpec, 501, "renaming"},
		{"POST /services/web/update?version={v:/services/web}", strings.Replace(webSpec, `"Name"`, `"Mode":{"Global":{}},"Name"`, 1), 501, "mode change"},
		{"POST /services/web/update?version={v:/services/web}&rollback=previous", webSpec, 400, "previous spec"},
		{"POST /services/web/update?version={v:/services/web}&rollback=next", webSpec, 400, "rollback"}, {"POST /services/web/update?version=1&registryAuthFrom=x", webSpec, 400, "registryAuthFrom"},
		{"POST /services/web/update?version={v:/services/web}&registryAuthFrom=previous-spec", webSpec, 200, ""},
		{"POST /services/web/update?version={v:/services/web}&rollback=previous", webSpec, 200, ""},
		{"GET /services/web/logs?stdout=1", "", 200, ""}, {"GET /services/web/logs", "", 400, "at least one stream"}, {"GET /services/web/logs?stdout=1&tail=-1", "", 400, "tail"}, {"GET /services/nope/logs?stdout=1", "", 404, "not found"},

		{"GET /tasks", "", 200, "walkedtask"}, {filtered("/tasks", "service", "web"), "", 200, "[]"}, {filtered("/tasks", "service", "nope"), "", 404, "service nope not found"},
		{filtered("/tasks", "node", "node1"), "", 200, "walkedtask"}, {filtered("/tasks", "node", "nope"), "", 404, "node nope not found"},
		{filtered("/tasks", "desired-state", "running"), "", 200, "walkedtask"}, {filtered("/tasks", "desired-state", "odd"), "", 400, "odd"},
		{filtered("/tasks", "id", "walked"), "", 200, "walkedtask"}, {filtered("/tasks", "label", "k"), "", 200, "[]"}, {filtered("/tasks", "runtime", "container"), "", 200, "walkedtask"},
		{filtered("/tasks", "name", "x"), "", 200, "[]"}, {filtered("/tasks", "_up-to-date", "true"), "", 200, "[]"}, {filtered("/tasks", "foo", "x"), "", 400, "Invalid filter 'foo'"},
		{"GET /tasks/walkedtask", "", 200, `"Slot":1`}, {"GET /tasks/nope", "", 404, "task nope not found"},
		{"GET /tasks/walkedtask/logs?stderr=1", "", 200, ""}, {"GET /tasks/walkedtask/logs", "", 400, "at least one stream"}, {"GET /tasks/nope/logs?stdout=1", "", 404, "not found"},

		{"POST /containers/create", `{"Image":"i"}`, 201, "newid"}, {"GET /containers/json", "", 200, "c1"}, {"GET /containers/c1/json", "", 200, "ingressid"},

		{"DELETE /services/web", "", 200, ""}, {"DELETE /services/web", "", 404, "not found"},
	}
	for _, kind := range []string{"secret", "config"} {
		base := "/" + kind + "s"
		use := fmt.Sprintf(`{"Name":"user","TaskTemplate":{"ContainerSpec":{"Image":"i","%[1]ss":[{"%[1]sID":"{id:%[2]s/a}","%[1]sName":"a","File":{"Name":"f","UID":"0","GID":"0"}}]}}}`, strings.ToUpper(kind[:1])+kind[1:], base)
		walk = append(walk, []call{
			{"POST " + base + "/create", secretA, 201, `"ID":"`}, {"POST " + base + "/create", secretA, 409, "already exists"},
			{"POST " + base + "/create", `{"Name":"-","Data":"aGk="}`, 400, "invalid name"}, {"POST " + base + "/create", `{"Name":"b"}`, 400, "data must be larger"},
			{"GET " + base, "", 200, `"k":"v"`}, {filtered(base, "name", "a"), "", 200, `"Name":"a"`}, {filtered(base, "names", "b"), "", 200, "[]"},
			{filtered(base, "id", "{id:"+base+"/a}"), "", 200, `"Name":"a"`}, {filtered(base, "label", "k=v"), "", 200, `"Name":"a"`}, {filtered(base, "foo", "x"), "", 400, "Invalid filter 'foo'"},
			{"GET " + base + "/a", "", 200, `"Name":"a"`}, {"GET " + base + "/nope", "", 404, kind + " nope not found"},
			{"POST " + base + "/a/update", relabel, 400, "version"}, {"POST " + base + "/a/update?version=999999", relabel, 500, sequence},
			{"POST " + base + "/a/update?version={v:" + base + "/a}", redata, 400, "only updates to Labels are allowed"},
			{"POST " + base + "/a/update?version={v:" + base + "/a}", relabel, 200, ""}, {"POST " + base + "/nope/update?version=1", relabel, 404, "not found"},
			{"POST /services/create", use, 201, ""}, {"DELETE " + base + "/a", "", 400, kind + " 'a' is in use by the following service: user"},
			{"DELETE /services/user", "", 200, ""}, {"DELETE " + base + "/a", "", 204, ""}, {"DELETE " + base + "/a", "", 404, "not found"},
		}...)
	}
	return append(walk, []call{
		{"POST /networks/prune?filters=" + `{"until":["1h"]}`, "", 200, `"NetworksDeleted":["mine"]`},
		{"POST /networks/prune?filters=" + `{"until":["soon"]}`, "", 400, "soon"},
		{"POST /networks/prune?filters=" + `{"label!":["k=v"]}`, "", 200, `"NetworksDeleted":["mine"]`},
		{"POST /networks/prune", "", 200, `"NetworksDeleted":["mine","ov"]`}, {"GET /networks/ov", "", 404, "not found"},
		{"DELETE /networks/ingress", "", 403, "routing mesh"}, {"DELETE /networks/mine", "", 201, "DELETE"}, {"DELETE /networks/nope", "", 201, "DELETE"},
		{"GET /services/web/nonsense", "", 404, "page not found"}, {"PATCH /services", "", 404, "page not found"},
	}...)
}

// placeholder is the version or the ID of an object.
var placeholder = regexp.MustCompile(`\{(v|id):([^}]*)\}`)

func (r *rig) fill(text string) string {
	return placeholder.ReplaceAllStringFunc(text, func(s string) string {
		m := placeholder.FindStringSubmatch(s)
		o := decode[struct {
			ID      string
			Version swarm.Version
		}](r.do("GET", m[2], nil).want(200, ""))
		if m[1] == "v" {
			return fmt.Sprint(o.Version.Index)
		}
		return o.ID
	})
}

func (r *rig) call(prefix string, c call) answer {
	r.t.Helper()
	method, path, _ := strings.Cut(r.fill(c.request), " ")
	if at, filters, ok := strings.Cut(path, "?filters="); ok {
		path = at + "?filters=" + url.QueryEscape(filters)
	}
	var body any
	if c.body != "" {
		body = r.fill(c.body)
	}
	return r.do(method, prefix+path, body)
}

// TestWalk walks the API in each version that clients from 20.10 to 29 negotiate.
func TestWalk(t *testing.T) {
	for _, version := range []string{"", "1.41", "1.42", "1.43", "1.44", "1.45", "1.46", "1.47", "1.48", "1.49", "1.50", "1.51", "1.52"} {
		t.Run(version, func(t *testing.T) {
			r := newRig(t)
			r.engine.registry = func(w http.ResponseWriter) { reply(w, http.StatusOK, map[string]string{"digest": "sha256:1"}) }
			task := runningTask(&store.Service{}, 1)
			task.ID = "walkedtask"
			r.create(task)
			prefix := ""
			if version != "" {
				prefix = "/v" + version
			}
			for _, c := range theWalk() {
				a := r.call(prefix, c)
				if a.status != c.status || !strings.Contains(string(a.body), c.says) && c.status < 400 {
					t.Fatalf("%s: %d %s, want %d with %q", c.request, a.status, a.body, c.status, c.says)
				}
				if c.status >= 400 {
					a.want(c.status, c.says)
				}
				for header, want := range map[string]string{"Api-Version": "1.52", "Ostype": "linux", "Docker-Experimental": "false", "Server": "meshd/0.1.0 (linux)"} {
					if got := a.header.Values(header); len(got) != 1 || got[0] != want {
						t.Errorf("%s: header %s is %q, want %s", c.request, header, got, want)
					}
				}
				if len(a.header.Values(requestID)) != 1 {
					t.Errorf("%s: header %s is %q", c.request, requestID, a.header.Values(requestID))
				}
			}
		})
	}
}

// TestWalkVisitsEveryRoute: a new endpoint needs its calls.
func TestWalkVisitsEveryRoute(t *testing.T) {
	walk := theWalk()
	for _, rt := range New(Config{}).routeTable() {
		visits := 0
		for _, c := range walk {
			method, path, _ := strings.Cut(c.request, " ")
			path, _, _ = strings.Cut(path, "?")
			if rt.match(&http.Request{Method: method}, strings.Split(path, "/")[1:]) {
				visits++
			}
		}
		if visits == 0 {
			t.Errorf("nobody visits %s /%s", rt.method, strings.Join(rt.segments, "/"))
		}
	}
}

// TestWalkWithoutAManager: what needs the swarm's state is refused where there is none,
// and says what to do. On a worker that is to ask a manager.
func TestWalkWithoutAManager(t *testing.T) {
	r := newRig(t)
	for _, place := range []struct {
		state swarm.LocalNodeState
		says  string
	}{
		{swarm.LocalNodeStateActive, "Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager. Managers: 192.0.2.1:2377, 192.0.2.2:2377."},
		{swarm.LocalNodeStateInactive, `Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`},
		{swarm.LocalNodeStateLocked, "Swarm is encrypted and needs to be unlocked before it can be used."},
	} {
		r.node.become(place.state, nil)
		for _, request := range []string{
			"GET /swarm", "POST /swarm/update?version=1", "GET /swarm/unlockkey", "GET /nodes", "GET /nodes/node1", "POST /nodes/node1/update?version=1", "DELETE /nodes/node1",
			"GET /services", "POST /services/create", "GET /services/web", "POST /services/web/update?version=1", "DELETE /services/web", "GET /services/web/logs?stdout=1",
			"GET /tasks", "GET /tasks/t", "GET /tasks/t/logs?stdout=1", "GET /secrets", "POST /secrets/create", "GET /secrets/a", "POST /secrets/a/update?version=1", "DELETE /secrets/a",
			"GET /configs", "POST /configs/create", "GET /configs/a", "POST /configs/a/update?version=1", "DELETE /configs/a",
		} {
			method, path, _ := strings.Cut(request, " ")
			r.do(method, "/v1.41"+path, nil).want(503, place.says)
		}
		r.do("POST", "/networks/create", `{"Name":"x","Driver":"overlay"}`).want(503, place.says)
		r.do("GET", "/networks", nil).want(200, "bridge")
		r.do("GET", "/containers/json", nil).want(200, "c1")
	}
}

// TestAnswersByVersion: what a version brought is not shown to clients of older ones.
func TestAnswersByVersion(t *testing.T) {
	r := newRig(t)
	for version, shown := range map[string]bool{"/v1.41": false, "/v1.51": false, "/v1.52": true, "": true} {
		if a := r.do("GET", version+"/networks/ingress", nil).want(200, ""); strings.Contains(string(a.body), `"Status":`) != shown {
			t.Errorf("%s: addresses in use are shown otherwise than %v: %s", version, shown, a.body)
		}
		if a := r.do("GET", version+"/system/df", nil).want(200, ""); strings.Contains(string(a.body), `"ImageUsage"`) != (version == "/v1.52") {
			t.Errorf("%s: disk usage is %s", version, a.body)
		}
	}
}
