package api

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// TestContainersShowTheSwarmsNetworks on managers and, where only labels tell
// it, on workers; the rest of the engine's answer stays as it was.
func TestContainersShowTheSwarmsNetworks(t *testing.T) {
	r := newRig(t)
	for _, control := range []Control{r.control, nil} {
		r.node.become(swarm.LocalNodeStateActive, control)
		list := r.do("GET", "/v1.51/containers/json?all=1", nil).want(200, `"ingress":{"NetworkID":"ingressid","IPAddress":"10.255.0.9"},"bridge":{"NetworkID":"bridgeid"}`)
		list.want(200, `"SizeRw":12345678901234567`)
		r.do("GET", "/containers/c1/json", nil).want(200, `{"Id":"c1","Config":{"Labels":{"x":"\"NetworkID\":\"localingressid\""}},"NetworkSettings":{"Networks":{"ingress":{"NetworkID":"ingressid"}}}}`)
		r.do("GET", "/containers/nope/json", nil).want(404, "page not found")
		filters := "?filters=" + url.QueryEscape(`{"network":{"ingressid":true,"bridge":true},"label":["x"]}`)
		a := r.do("GET", "/containers/json"+filters, nil).want(200, "localingressid")
		if strings.Contains(string(a.body), `{\"ingressid`) {
			t.Errorf("the engine was asked for an ID that it does not know: %s", a.body)
		}
		for _, ref := range []string{"ingress", "ingressid", "ingressi", "localingressid"} {
			r.do("GET", "/networks/"+ref, nil).want(200, `"Scope":"swarm"`)
		}
	}
	r.node.become(swarm.LocalNodeStateInactive, nil)
	r.do("GET", "/containers/c1/json", nil).want(200, `"NetworkID":"localingressid"`)
}

func TestRegistryThatDoesNotAnswer(t *testing.T) {
	r := newRig(t)
	r.engine.images = map[string]bool{"a/b:1": true, "c": true}
	begun := time.Now()
	r.do("GET", "/v1.51/distribution/a/b:1/json", nil).want(503, "the registry of image a/b:1 did not answer")
	if took := time.Since(begun); took < registryPatience || took > registryPatience+30*time.Second {
		t.Errorf("it took %v", took)
	}
	r.engine.registry = func(w http.ResponseWriter) {
		reply(w, http.StatusOK, map[string]any{"Descriptor": map[string]any{"digest": "sha256:2"}})
	}
	r.do("GET", "/distribution/c/json", nil).want(200, "sha256:2")
	r.engine.registry = func(w http.ResponseWriter) {
		reply(w, http.StatusUnauthorized, map[string]string{"message": "no access"})
	}
	r.do("GET", "/distribution/c/json", nil).want(401, "no access")
	// Slow, and needed: the engine has not got the image.
	r.engine.registry = func(w http.ResponseWriter) {
		<-time.After(registryPatience + 300*time.Millisecond)
		reply(w, http.StatusOK, map[string]any{"Descriptor": map[string]any{"digest": "sha256:3"}})
	}
	r.do("GET", "/distribution/host:5000/d/e@sha256:00/json", nil).want(200, "sha256:3")
}
