package api

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"
)

// TestValidateService changes one field at a time of a good service. Each case
// is a JSON text merged over it.
func TestValidateService(t *testing.T) {
	const ok = ""
	container := func(fields string) string { return `{"TaskTemplate":{"ContainerSpec":{` + fields + `}}}` }
	template := func(fields string) string { return `{"TaskTemplate":{` + fields + `}}` }
	ports := func(list string) string { return `{"EndpointSpec":{"Ports":[` + list + `]}}` }
	for _, c := range []struct{ change, want string }{
		{`{}`, ok},
		{`{"Name":""}`, "name must be provided"},
		{`{"Name":"a.b"}`, "valid as a DNS name component"},
		{`{"Name":"-a"}`, "valid as a DNS name component"},
		{`{"Name":"a-b_c"}`, ok},
		{`{"Name":"` + strings.Repeat("a", 63) + `"}`, ok},
		{`{"Name":"` + strings.Repeat("a", 64) + `"}`, "63 characters or fewer"},
		{`{"Labels":{"mesh.lb":"leastconn","mesh.lb.affinity":"10m","mesh.lb.locality":"node"}}`, ok},
		{`{"Labels":{"mesh.lb":"fair"}}`, "mesh.lb=fair: must be one of"},
		{`{"Labels":{"mesh.vip":"10.0.0.300"}}`, `label mesh.vip=10.0.0.300: "10.0.0.300" must be an address`},
		{`{"Labels":{"mesh.stable-ip":"true"}}`, ok},
		{`{"Labels":{"mesh.stable-ip":"maybe"}}`, "must be true or false"},
		{`{"Labels":{"mesh.ingress":"local"}}`, ok},
		{`{"Labels":{"mesh.ingress":"near"}}`, "mesh.ingress=near: must be mesh, prefer, local or dsr"},
		{`{"Labels":{"mesh.publish":"eth1, 192.168.0.0/16,fd00::1"}}`, ok},
		{`{"Labels":{"mesh.publish":"192.168.0.0/33"}}`, "neither an interface nor an address nor a prefix"},
		{`{"Labels":{"mesh.publish":""}}`, "neither an interface"},
		{`{"Labels":{"mesh.publish.8080":"lo"}}`, "does not publish port 8080"},
		{`{"Labels":{"mesh.publish.8080":"lo"},"EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]}}`, ok},

		{template(`"Runtime":"attachment"`), "unsupported runtime"},
		{template(`"Runtime":"odd"`), "unsupported runtime"},
		{template(`"Runtime":"plugin"`), "plugin services"},
		{template(`"ContainerSpec":null`), "mismatched Runtime and *Spec fields"},
		{container(`"Image":""`), "image reference must be provided"},
		{container(`"Image":"Nginx"`), "is not a valid repository/tag"},
		{container(`"Image":"host:5000/a/b:tag"`), ok},
		{container(`"StopGracePeriod":-1`), "cannot be negative"},
		{container(`"Mounts":[{"Target":"/a"},{"Type":"volume","Target":"/a"}]`), "invalid MountType"},
		{container(`"Mounts":[{"Type":"volume","Target":"/a"},{"Type":"volume","Target":"/a/"}]`), "duplicate mount point"},
		{container(`"Mounts":[{"Type":"volume","Target":"a"}]`), "absolute path"},
		{container(`"Mounts":[{"Type":"bind","Source":"x","Target":"/a"}]`), "invalid bind mount source"},
		{container(`"Mounts":[{"Type":"tmpfs","Target":"/a"},{"Type":"bind","Source":"/x","Target":"/b"}]`), ok},
		{container(`"Healthcheck":{"Interval":1000}`), "Interval in Healthcheck"},
		{container(`"Healthcheck":{"Interval":1000000,"Retries":-1}`), "Retries"},
		{container(`"Secrets":[{"SecretID":"i","File":{"Name":"f"}}]`), "malformed secret reference"},
		{container(`"Secrets":[{"SecretID":"i","SecretName":"n"}]`), "no target provided"},
		{container(`"Secrets":[{"SecretID":"i","SecretName":"n","File":{"Name":"f"}},{"SecretID":"j","SecretName":"m","File":{"Name":"f"}}]`), "conflicting target: 'f'"},
		{container(`"Configs":[{"ConfigID":"i","ConfigName":"n","File":{"Name":"f"},"Runtime":{}}]`), "both File and Runtime"},
		{container(`"Configs":[{"ConfigID":"i","ConfigName":"n","Runtime":{}}]`), "credential specs"},
		{container(`"Secrets":[{"SecretID":"i","SecretName":"n","File":{"Name":"../f"}}]`), "must not contain"},
		{container(`"Secrets":[{"SecretID":"i","SecretName":"n","File":{"Name":"/run/secrets"}}]`), "is a folder"},
		{container(`"Secrets":[{"SecretID":"i","SecretName":"n","File":{"Name":"f","UID":"bob"}}]`), "invalid File.UID"},
		{container(`"Secrets":[{"SecretID":"i","SecretName":"n","File":{"Name":"/f"}}],"Configs":[{"ConfigID":"j","ConfigName":"m","File":{"Name":"f"}}]`), "conflicting target"},
		{container(`"Mounts":[{"Type":"tmpfs","Target":"/a"}],"Configs":[{"ConfigID":"j","ConfigName":"m","File":{"Name":"a"}}]`), "is a mount's, too"},
		{container(`"Secrets":[{"SecretID":"i","SecretName":"n","File":{"Name":"/etc/key","UID":"7","GID":"8","Mode":256}}]`), ok},
		{container(`"Configs":[{"ConfigID":"i","ConfigName":"n"}]`), "no target provided"},

		{template(`"Resources":{"Limits":{"NanoCPUs":999999}}`), "invalid cpu value"},
		{template(`"Resources":{"Limits":{"NanoCPUs":1000000,"MemoryBytes":4194304}}`), ok},
		{template(`"Resources":{"Reservations":{"MemoryBytes":4194303}}`), "invalid memory value"},
		{template(`"Resources":{"Limits":{"Pids":-1}}`), "pids"},
		{template(`"RestartPolicy":{"Condition":"sometimes"}`), "RestartCondition"},
		{template(`"RestartPolicy":{"Delay":-1}`), "restart-delay"},
		{template(`"RestartPolicy":{"Window":-1}`), "restart-window"},
		{template(`"Placement":{"Constraints":["node.role=manager"]}`), "invalid placement constraint"},
		{template(`"Placement":{"Constraints":["unknown==x"]}`), ok},
		{template(`"Placement":{"Preferences":[{}]}`), "placement preference"},

		{`{"Mode":{"Replicated":{},"Global":{}}}`, "only one service mode"},
		{`{"Mode":{"Global":{}}}`, ok},
		{`{"Mode":{"ReplicatedJob":{}},"UpdateConfig":{}}`, "not allowed on jobs"},
		{`{"Mode":{"ReplicatedJob":{}}}`, ok},
		{container(`"Mounts":[{"Type":"npipe","Source":"a","Target":"/a"}]`), "is for Windows"},
		{container(`"Mounts":[{"Type":"cluster","Source":"a","Target":"/a"}]`), "CSI"},
		{container(`"Mounts":[{"Type":"tmpfs","Target":"/a","BindOptions":{"Propagation":"shared"}}]`), "BindOptions are for type bind"},
		{container(`"Mounts":[{"Type":"volume","Target":"/a","Consistency":"some"}]`), "Consistency"},
		{container(`"OomScoreAdj":1001`), "OomScoreAdj"},
		{container(`"Hosts":["10.1.1.1"]`), "Hosts"},
		{container(`"Hosts":["db 10.1.1.1"]`), "Hosts"},
		{container(`"Hosts":["10.1.1.1 db db.local"]`), ok},
		{container(`"Ulimits":[{"Name":"nofile","Soft":2,"Hard":1}]`), "Ulimits: nofile"},
		{container(`"Privileges":{"Seccomp":{"Mode":"some"}}`), "Seccomp.Mode"},
		{container(`"Privileges":{"Seccomp":{"Mode":"custom","Profile":"eA=="}}`), "Seccomp.Profile is not JSON"},
		{container(`"Privileges":{"Seccomp":{"Profile":"e30="}}`), "needs mode"},
		{container(`"Privileges":{"AppArmor":{"Mode":"some"}}`), "AppArmor.Mode"},
		{container(`"Labels":{"mesh.privileged":"perhaps"}`), "mesh.privileged"},
		{container(`"Labels":{"mesh.devices":"/dev/fuse"}`), ok},
		{`{"Labels":{"mesh.devices":"/dev/fuse"}}`, "--container-label"},
		{`{"TaskTemplate":{"Resources":{"SwapBytes":1}}}`, "memory limit"},
		{`{"TaskTemplate":{"Resources":{"Limits":{"MemoryBytes":8000000},"SwapBytes":-2}}}`, "SwapBytes"},
		{`{"TaskTemplate":{"Resources":{"MemorySwappiness":101}}}`, "MemorySwappiness"},
		{`{"Labels":{"mesh.schedule":"0 5 * * *"}}`, "is for jobs"},
		{`{"Labels":{"mesh.rebalance":"auto"}}`, ok},
		{`{"Labels":{"mesh.rebalance":"yes"}}`, "mesh.rebalance"},
		{`{"Labels":{"mesh.history":"36h"}}`, ok},
		{`{"Labels":{"mesh.history":"forever"}}`, "mesh.history"},
		{`{"Mode":{"ReplicatedJob":{}},"Labels":{"mesh.schedule":"0 5 * *"}}`, "mesh.schedule"},
		{`{"Mode":{"GlobalJob":{}},"Labels":{"mesh.schedule":"0 5 * * *","mesh.schedule.concurrency":"replace"}}`, ok},
		{`{"Mode":{"ReplicatedJob":{"MaxConcurrent":0}}}`, "MaxConcurrent must be at least 1"},
		{`{"Mode":{"GlobalJob":{}},"TaskTemplate":{"Placement":{"MaxReplicas":1}}}`, "replicas-max-per-node"},
		{`{"Mode":{"Global":{}},"TaskTemplate":{"Placement":{"MaxReplicas":1}}}`, "replicas-max-per-node"},
		{`{"UpdateConfig":{"FailureAction":"shrug"}}`, "failure action"},
		{`{"UpdateConfig":{"Order":"random"}}`, "update order"},
		{`{"UpdateConfig":{"Delay":-1}}`, "update-delay"},
		{`{"UpdateConfig":{"MaxFailureRatio":2}}`, "maxfailureratio"},
		{`{"RollbackConfig":{"FailureAction":"rollback"}}`, "RollbackConfig"},

		{`{"EndpointSpec":{"Mode":"magic"}}`, "resolution mode"},
		{ports(`{"TargetPort":0}`), "invalid target port 0"},
		{ports(`{"TargetPort":80,"PublishedPort":70000}`), "invalid published port 70000"},
		{ports(`{"TargetPort":80,"Protocol":"icmp"}`), "invalid protocol"},
		{ports(`{"TargetPort":80,"PublishMode":"everywhere"}`), "invalid publish mode"},
		{ports(`{"TargetPort":80,"PublishedPort":80},{"TargetPort":81,"PublishedPort":80,"Protocol":"tcp"}`), "duplicate published ports"},
		{ports(`{"TargetPort":80,"PublishedPort":80},{"TargetPort":80,"PublishedPort":80,"Protocol":"udp"}`), ok},
		{ports(`{"TargetPort":80},{"TargetPort":80}`), ok},
		{`{"EndpointSpec":{"Mode":"dnsrr","Ports":[{"TargetPort":80}]}}`, "dnsrr"},
		{ports(`{"TargetPort":80,"PublishMode":"host"}`), ok},
		{ports(`{"TargetPort":80,"Protocol":"sctp","PublishMode":"host"}`), "SCTP cannot be published"},
		{ports(`{"TargetPort":80,"Protocol":"sctp"}`), "SCTP cannot be published"},
		{`{"EndpointSpec":{"Mode":"dnsrr","Ports":[{"TargetPort":80,"PublishedPort":8080,"PublishMode":"host"}]}}`, ok},
	} {
		err := validateService(specOf(t, c.change))
		switch {
		case c.want == ok && err != nil:
			t.Errorf("%s: %v", c.change, err)
		case c.want != ok && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", c.change, err, c.want)
		case err != nil && (faultOf(err).status < 400 || faultOf(err).status == 500):
			t.Errorf("%s: status %d", c.change, faultOf(err).status)
		}
	}
}

// specOf merges JSON into a good spec.
func specOf(t *testing.T, change string) *swarm.ServiceSpec {
	t.Helper()
	var spec swarm.ServiceSpec
	for _, text := range []string{`{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"nginx"}}}`, change} {
		if err := json.Unmarshal([]byte(text), &spec); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return &spec
}

func TestNormalizeIsStable(t *testing.T) {
	var spec swarm.ServiceSpec
	if err := json.Unmarshal([]byte(webSpec), &spec); err != nil {
		t.Fatal(err)
	}
	normalize(&spec)
	once, _ := json.Marshal(spec)
	normalize(&spec)
	if twice, _ := json.Marshal(spec); string(once) != string(twice) {
		t.Errorf("%s became %s", once, twice)
	}
	full, _ := json.Marshal(insertDefaults(spec))
	if again, _ := json.Marshal(spec); string(again) != string(once) {
		t.Errorf("insertDefaults changed its argument to %s", again)
	}
	if !strings.Contains(string(full), `"Monitor":5000000000`) {
		t.Errorf("defaults: %s", full)
	}
}

func TestVersions(t *testing.T) {
	for path, want := range map[string]string{
		"/v1.41/a/b": "1.41 /a/b true", "/v1.41": "1.41 / true", "/volumes": "0.0 /volumes false", "/v1/x": "0.0 /v1/x false",
		"/version": "0.0 /version false", "/v1.-1/x": "0.0 /v1.-1/x false", "/": "0.0 / false",
	} {
		v, rest, ok := splitVersion(path)
		text := "false"
		if ok {
			text = "true"
		}
		if got := v.String() + " " + rest + " " + text; got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if !(apiVersion{1, 9}).less(apiVersion{1, 10}) || (apiVersion{1, 41}).less(apiVersion{1, 41}) {
		t.Error("versions compare as text")
	}
}

func FuzzFilters(f *testing.F) {
	f.Add(`{"k":{"v":true}}`)
	f.Add(`{"k":["v"]}`)
	f.Fuzz(func(t *testing.T, raw string) {
		if got, err := decodeFilters(raw); err == nil {
			if again, err := decodeFilters(got.encode()); err != nil || len(again) != len(got) {
				t.Errorf("%q came back as %v, %v", raw, again, err)
			}
		}
	})
}

func TestValidatePools(t *testing.T) {
	const ok = ""
	for _, c := range []struct {
		pools string
		size  uint32
		want  string
	}{
		{"", 0, ok}, {"", 24, ok}, {"10.20.0.0/16", 24, ok}, {"10.20.0.0/16 10.30.0.0/24", 24, ok}, {"10.20.0.0/16 fd00::/56", 24, ok}, {"10.20.0.0/16", 0, ok},
		{"", 31, "invalid default-addr-pool-mask-length 31: a network of that size has no room for tasks; 30 is the largest"},
		{"10.20.0.0/16", 12, "invalid default-addr-pool 10.20.0.0/16: default-addr-pool-mask-length 12 does not fit"},
		{"10.20.0.1/16", 24, "it should be 10.20.0.0/16"},
		{"10.20.0.0/31", 0, "too small"}, {"fd00::/65", 24, "too small"},
		{"224.0.0.0/8", 24, "not for networks"}, {"127.0.0.0/8", 24, "not for networks"}, {"0.0.0.0/0", 24, "not for networks"},
		{"10.20.0.0/16 10.20.3.0/24", 24, "invalid default-addr-pool 10.20.3.0/24: it overlaps with pool 10.20.0.0/16"},
	} {
		var pools []netip.Prefix
		for _, p := range strings.Fields(c.pools) {
			pools = append(pools, netip.MustParsePrefix(p))
		}
		err := validateInit(swarm.InitRequest{DefaultAddrPool: pools, SubnetSize: c.size})
		if c.want == ok && err != nil || c.want != ok && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s size %d: got %v, want %q", c.pools, c.size, err, c.want)
		}
	}
}
