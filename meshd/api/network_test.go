package api

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
)

func TestNetworkCreate(t *testing.T) {
	r := newRig(t)
	r.hosts = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("192.0.2.0/24")}
	create := func(body string) answer { return r.do("POST", "/v1.51/networks/create", body) }
	id := decode[network.CreateResponse](create(`{"Name":"ov","Driver":"overlay","Attachable":true,"Labels":{"a":"b"}}`).want(201, "Id")).ID
	n := decode[network.Inspect](r.do("GET", "/networks/ov", nil).want(200, ""))
	if n.ID != id || n.Scope != "swarm" || n.Driver != "overlay" || !n.Attachable || n.Options[vxlanList] != "4097" ||
		n.IPAM.Config[0].Subnet.String() != "10.0.0.0/24" || n.Labels["a"] != "b" {
		t.Fatalf("got %+v", n)
	}
	sub := func(name, subnet string) string {
		return `{"Name":"` + name + `","Driver":"overlay","IPAM":{"Driver":"default","Config":[{"Subnet":"` + subnet + `"}]}}`
	}
	create(sub("own", "10.7.0.0/24")).want(201, "")
	sub6 := func(name, subnet string) string {
		return strings.Replace(sub(name, subnet), `"IPAM"`, `"EnableIPv6":true,"IPAM"`, 1)
	}
	create(sub6("six", "fd00:7::/64")).want(201, "")
	create(`{"Name":"only6","Driver":"overlay","EnableIPv4":false,"EnableIPv6":true,"Options":{"a":"b"}}`).want(201, "")
	for name, want := range map[string]string{
		"ov": "true false", "six": "true true", "only6": "false true",
	} {
		n := decode[network.Inspect](r.do("GET", "/networks/"+name, nil).want(200, ""))
		if got := fmt.Sprint(n.EnableIPv4, n.EnableIPv6); got != want {
			t.Errorf("network %s has IPv4 and IPv6: %s, want %s", name, got, want)
		}
	}
	// A worker hides what an engine that knows no networks without IPv4 makes up.
	made := network.Network{Options: map[string]string{noIPv4Option: "true"}, EnableIPv4: true, IPAM: network.IPAM{Config: []network.IPAMConfig{
		{Subnet: netip.MustParsePrefix("fd00::/64")}, {Subnet: netip.MustParsePrefix("240.64.4.0/22")},
	}}}
	if v := localView(made); v.EnableIPv4 || len(v.IPAM.Config) != 1 {
		t.Errorf("a network without IPv4 on a worker: %+v", v)
	}
	const inspected = `{"Gateway":"240.64.4.1","IPAddress":"240.64.4.2","Other":"24.0.0.1"},{"IPAddress":"24.1.2.3"}`
	if got := string(hideStandIns([]byte(inspected))); got != `{"Gateway":"","IPAddress":"","Other":"24.0.0.1"},{"IPAddress":"24.1.2.3"}` {
		t.Errorf("a container without IPv4: %s", got)
	}
	for _, c := range []struct {
		body   string
		status int
		text   string
	}{
		{`{"Name":"ov","Driver":"overlay"}`, 409, "network with name ov already exists"},
		{`{"Name":"mine","Driver":"overlay"}`, 409, "network with name mine already exists"},
		{`{"Name":"ov","Driver":"bridge"}`, 409, "network with name ov already exists"},
		{`{"Name":"bridge","Driver":"overlay"}`, 403, "predefined"},
		{`{"Name":"a b","Driver":"overlay"}`, 400, "DNS name"},
		{`{"Name":"x","Driver":"macvlan","Scope":"swarm"}`, 400, "macvlan"},
		{`{"Name":"x","Driver":"overlay","Ingress":true}`, 409, "already present"},
		{`{"Name":"x","Driver":"overlay","Options":{"encrypted":""}}`, 501, "encrypted"},
		{`{"Name":"x","Driver":"overlay","IPAM":{"Driver":"odd"}}`, 404, `plugin "odd" not found`},
		{`{"Name":"x","Driver":"overlay","EnableIPv4":false}`, 400, "IPv4 or IPv6 must be enabled"},
		{sub("x", "fd00:9::/64"), 400, "IPv6 needs --ipv6"},
		{sub6("x", "fd00:7::/80"), 400, "fd00:7::/80 overlaps fd00:7::/64 of network six"},
		{sub6("x", "fd00:9::1/64"), 400, "it should be fd00:9::/64"},
		{sub6("x", "fd00:9::/127"), 400, "no room"},
		{sub6("x", "fe80::/64"), 400, "cannot be a subnet"},
		{sub6("x", "::ffff:10.9.0.0/120"), 400, "cannot be a subnet"},
		{`{"Name":"x","Driver":"overlay","EnableIPv4":false,"EnableIPv6":true,"IPAM":{"Config":[{"Subnet":"10.9.0.0/24"}]}}`, 400, "does not have"},
		{`{"Name":"x","Driver":"meshd"}`, 400, "overlay"},
		{`{`, 400, "invalid JSON"},
		{sub("x", "10.7.0.128/25"), 400, "10.7.0.128/25 overlaps 10.7.0.0/24 of network own"},
		{sub("x", "10.0.0.0/8"), 400, "Pool overlaps"},
		{sub("x", "10.255.3.0/24"), 400, "of network ingress"},
		{sub("x", "192.0.0.0/16"), 400, "overlaps the route to 192.0.2.0/24 of this host"},
		{sub("x", "10.9.0.7/24"), 400, "it should be 10.9.0.0/24"},
		{sub("x", "nonsense"), 400, "invalid network"},
		{sub("x", "10.9.0.0/31"), 400, "no room"},
		{`{"Name":"x","Driver":"overlay","IPAM":{"Config":[{"Subnet":"10.9.0.0/24","Gateway":"10.8.0.1"}]}}`, 400, "gateway 10.8.0.1"},
		{`{"Name":"x","Driver":"overlay","IPAM":{"Config":[{"Subnet":"10.9.0.0/24","IPRange":"10.8.0.0/25"}]}}`, 400, "range"},
		{`{"Name":"x","Driver":"overlay","IPAM":{"Config":[{"Subnet":"10.9.0.0/24"},{"Subnet":"10.9.0.0/25"}]}}`, 400, "same network"},
	} {
		create(c.body).want(c.status, c.text)
	}
	r.do("DELETE", "/networks/ingress", nil).want(403, "routing mesh")
}

func TestNetworkListAndProxy(t *testing.T) {
	r := newRig(t)
	r.do("POST", "/networks/create", `{"Name":"ov","Driver":"overlay"}`).want(201, "")
	names := func(filters string) string {
		t.Helper()
		var out []string
		for _, n := range decode[[]network.Summary](r.do("GET", "/networks?filters="+url.QueryEscape(filters), nil).want(200, "")) {
			out = append(out, n.Name+"/"+n.Scope)
		}
		return strings.Join(sortedWords(strings.Join(out, " ")), " ")
	}
	if got := names(``); got != "bridge/local ingress/swarm mine/local ov/swarm" {
		t.Errorf("list: %s", got)
	}
	if got := names(`{"driver":["overlay"],"name":{"o":true}}`); !strings.HasPrefix(got, "bridge/local mine/local ov/swarm") {
		t.Errorf("filtered: %s", got) // the fake engine filters nothing
	}
	if got := decode[network.Inspect](r.do("GET", "/networks/localingressid", nil).want(200, "")); got.ID != "ingressid" || got.Driver != "overlay" {
		t.Errorf("by the engine's ID: %+v", got)
	}
	if got := decode[network.Inspect](r.do("GET", "/networks/host?scope=swarm", nil).want(200, "")); got.ID != "host" {
		t.Errorf("host: %+v", got)
	}
	r.do("GET", "/networks/mine?scope=swarm", nil).want(404, "network mine not found")
	r.do("GET", "/networks/mine?scope=local", nil).want(200, "mineid")
	r.do("GET", "/networks/nope", nil).want(404, "network nope not found")

	r.do("POST", "/v1.51/networks/ov/disconnect", `{"Container":"c"}`).want(201, "/v1.41/networks/ov/disconnect")
	r.do("POST", "/v1.51/networks/ingressid/disconnect", `{"Container":"c"}`).want(201, "/v1.41/networks/ingress/disconnect")
	r.do("POST", "/v1.51/networks/create", `{"Name":"br","Driver":"bridge"}`).want(201, "POST /v1.41/networks/create 31")
	r.do("POST", "/networks/prune", nil).want(201, url.QueryEscape(`{"label!":{"mesh.network":true}}`))

	// A worker has no store: it shows what its engine has of the swarm.
	r.node.become(swarm.LocalNodeStateActive, nil)
	if got := names(``); got != "bridge/local ingress/swarm mine/local" {
		t.Errorf("list of a worker: %s", got)
	}
	got := decode[network.Inspect](r.do("GET", "/networks/ingress", nil).want(200, ""))
	if got.ID != "ingressid" || got.Scope != "swarm" || got.Options[vxlanList] != "4096" {
		t.Errorf("on a worker: %+v", got)
	}
	r.do("DELETE", "/networks/ingress", nil).want(503, "Worker nodes")
}
