package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/overlay"
)

func TestNetworkCreate(t *testing.T) {
	r := newRig(t)
	r.hosts = []overlay.HostRoute{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Device: "eth7", Gateway: netip.MustParseAddr("198.51.100.1")}}
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
		{sub("x", "192.0.0.0/16"), 400, "192.0.0.0/16 overlaps a route of this host: 192.0.2.0/24 via 198.51.100.1 dev eth7"},
		{sub("x", "10.9.0.7/24"), 400, "it should be 10.9.0.0/24"},
		{sub("x", "nonsense"), 400, "invalid network"},
		{sub("x", "10.9.0.0/31"), 400, "no room"},
		{`{"Name":"x","Driver":"overlay","IPAM":{"Config":[{"Subnet":"10.9.0.0/24","Gateway":"10.8.0.1"}]}}`, 400, "gateway 10.8.0.1"},
		{`{"Name":"x","Driver":"overlay","IPAM":{"Config":[{"Subnet":"10.9.0.0/24","IPRange":"10.8.0.0/25"}]}}`, 400, "range"},
		{`{"Name":"x","Driver":"overlay","IPAM":{"Config":[{"Subnet":"10.9.0.0/24"},{"Subnet":"10.9.0.0/25"}]}}`, 400, "same network"},
		{`{"Name":"x","Driver":"overlay","IPAM":{"Options":{"odd":"1"}}}`, 400, `unknown ipam option "odd"`},
	} {
		create(c.body).want(c.status, c.text)
	}
	r.do("DELETE", "/networks/ingress", nil).want(403, "routing mesh")
}

func TestNetworkAddressesAreChecked(t *testing.T) {
	const ok = ""
	for _, c := range []struct{ config, want string }{
		{`{"Subnet":"10.9.0.0/24"}`, ok},
		{`{"Subnet":"10.9.0.0/24","Gateway":"10.9.0.254","IPRange":"10.9.0.128/25","AuxiliaryAddresses":{"a":"10.9.0.2","b":"10.9.0.129"}}`, ok},
		{`{"Subnet":"10.9.0.0/30","AuxiliaryAddresses":{}}`, ok},
		{`{"Subnet":"10.9.0.0/24"},{"Subnet":"10.9.2.0/24","Gateway":"10.9.2.9"}`, ok},
		{`{"Gateway":"10.9.0.1"}`, "a gateway, an ip-range or an auxiliary address needs a subnet"},
		{`{"Subnet":"10.9.0.1/24"}`, "invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24"},
		{`{"Subnet":"10.9.0.0/31"}`, "invalid subnet 10.9.0.0/31: it has no room for tasks; /30 is the smallest"},
		{`{"Subnet":"127.0.0.0/16"}`, "127.0.0.0/16 cannot be a subnet: its addresses are not for networks"},
		{`{"Subnet":"224.0.0.0/16"}`, "224.0.0.0/16 cannot be a subnet"},
		{`{"Subnet":"169.254.0.0/16"}`, "169.254.0.0/16 cannot be a subnet"},
		{`{"Subnet":"10.9.0.0/24","IPRange":"10.9.1.0/25"}`, "invalid ip-range 10.9.1.0/25: parent subnet 10.9.0.0/24 doesn't contain ip-range"},
		{`{"Subnet":"10.9.0.0/24","IPRange":"10.9.0.0/23"}`, "invalid ip-range 10.9.0.0/23: CIDR block is bigger"},
		{`{"Subnet":"10.9.0.0/24","IPRange":"10.9.0.1/25"}`, "invalid ip-range 10.9.0.1/25: it should be 10.9.0.0/25"},
		{`{"Subnet":"10.9.0.0/24","IPRange":"10.9.0.255/32"}`, "range 10.9.0.255/32: no free address"},
		{`{"Subnet":"10.9.0.0/24","Gateway":"10.9.0.8","IPRange":"10.9.0.8/31","AuxiliaryAddresses":{"a":"10.9.0.9"}}`, "leaves no address for tasks: gateway and auxiliary addresses take all 2"},
		{`{"Subnet":"10.9.0.0/24","Gateway":"10.8.0.1"}`, "invalid gateway 10.8.0.1: parent subnet 10.9.0.0/24 doesn't contain this address"},
		{`{"Subnet":"10.9.0.0/24","Gateway":"10.9.0.0"}`, "invalid gateway 10.9.0.0: no host may have"},
		{`{"Subnet":"10.9.0.0/24","Gateway":"fd00::1"}`, "invalid gateway fd00::1"},
		{`{"Subnet":"10.9.0.0/24","AuxiliaryAddresses":{"a":"10.9.0.255"}}`, `invalid auxiliary address "a" 10.9.0.255: no host may have`},
		{`{"Subnet":"10.9.0.0/24","AuxiliaryAddresses":{"a":"10.8.0.2"}}`, `invalid auxiliary address "a" 10.8.0.2: parent subnet`},
		{`{"Subnet":"10.9.0.0/24","AuxiliaryAddresses":{"a":"10.9.0.1"}}`, `invalid auxiliary address "a": 10.9.0.1 is the gateway`},
		{`{"Subnet":"10.9.0.0/24","AuxiliaryAddresses":{"a":"10.9.0.2","b":"10.9.0.2"}}`, `invalid auxiliary address "b": 10.9.0.2 is auxiliary address "a"`},
		{`{"Subnet":"10.9.0.0/24","AuxiliaryAddresses":{"a":""}}`, `invalid auxiliary address "a": it is empty`},
		{`{"Subnet":"10.9.0.0/24","AuxiliaryAddresses":{"a":"10.9.0.2"}},{"Subnet":"10.9.2.0/24","AuxiliaryAddresses":{"a":"10.9.2.2"}}`, `auxiliary address "a" is given twice`},
	} {
		var given network.IPAM
		if err := json.Unmarshal([]byte(`{"Config":[`+c.config+`]}`), &given); err != nil {
			t.Fatalf("%s: %v", c.config, err)
		}
		err := validateIPAM(&given)
		if c.want == ok && err != nil || c.want != ok && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s:\n got %v\nwant %q", c.config, err, c.want)
		}
	}
}

// A network that the allocator has no subnet for is refused, not left waiting.
func TestNetworkWithoutRoom(t *testing.T) {
	r := newRig(t)
	r.do("POST", "/networks/create", `{"Name":"full","Driver":"overlay","Labels":{"refuse":"no free subnet in the address pools"}}`).
		want(400, "could not find an available, non-overlapping address pool among the defaults to assign to the network: no free subnet")
	r.do("GET", "/networks/full", nil).want(404, "not found")
}

func TestNetworkShowsItsAddresses(t *testing.T) {
	r := newRig(t)
	r.do("POST", "/networks/create", `{"Name":"ov","Driver":"overlay","IPAM":{"Config":[
		{"Subnet":"10.9.0.0/24","Gateway":"10.9.0.254","IPRange":"10.9.0.128/25","AuxiliaryAddresses":{"a":"10.9.0.2"}},
		{"Subnet":"10.9.2.0/24","AuxiliaryAddresses":{"b":"10.9.2.2"}}]}}`).want(201, "")
	got := decode[network.Inspect](r.do("GET", "/networks/ov", nil).want(200, "")).IPAM.Config
	if len(got) != 2 || got[0].Gateway.String() != "10.9.0.254" || got[0].IPRange.String() != "10.9.0.128/25" ||
		len(got[0].AuxAddress) != 1 || got[0].AuxAddress["a"].String() != "10.9.0.2" || got[1].AuxAddress["b"].String() != "10.9.2.2" {
		t.Errorf("%+v", got)
	}
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

	r.do("POST", "/v1.51/networks/create", `{"Name":"br","Driver":"bridge"}`).want(201, "POST /v1.41/networks/create 31")
	if got := decode[network.PruneReport](r.do("POST", "/networks/prune", nil).want(200, "")); !slices.Equal(got.NetworksDeleted, []string{"mine", "ov"}) {
		t.Errorf("pruned: %+v", got)
	}
	if asked := r.engine.requests(); !slices.Contains(asked, "POST /networks/prune?filters="+url.QueryEscape(`{"label!":{"mesh.network":true}}`)) {
		t.Errorf("the engine may prune what stands for the swarm's networks: %q", asked)
	}

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
