package allocator

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"github.com/meshd/meshd/orchestrator/store"
)

func TestCheckLabels(t *testing.T) {
	const ok = ""
	for _, c := range []struct {
		labels string
		mode   swarm.ResolutionMode
		order  swarm.UpdateOrder
		want   string
	}{
		{"mesh.vip=10.0.0.50", "", "", ok},
		{"mesh.vip=front=10.0.0.50, back=10.0.1.50,fd00::7", "vip", "", ok},
		{"mesh.vip=10.0.0.50", "dnsrr", "", "endpoint mode dnsrr has no virtual IP"},
		{"mesh.vip=", "", "", `label mesh.vip=: "" must be an address, or network=address`},
		{"mesh.vip=10.0.0.50/24", "", "", `"10.0.0.50/24" must be an address`},
		{"mesh.vip==10.0.0.50", "", "", `"=10.0.0.50" must be an address`},
		{"mesh.vip=front=", "", "", `"front=" must be an address`},
		{"mesh.vip=fe80::1%eth0", "", "", "must be an address"},
		{"mesh.vip=10.0.0.50,a=10.0.0.50", "", "", "10.0.0.50 is there twice"},
		{"mesh.stable-ip=true", "", "stop-first", ok},
		{"mesh.stable-ip=false", "", "start-first", ok},
		{"mesh.stable-ip=true", "", "start-first", "use stop-first"},
		{"mesh.stable-ip=yes", "", "", "label mesh.stable-ip=yes: must be true or false"},
		{"mesh.stable-ip=true", "dnsrr", "", ok},
	} {
		s := &swarm.ServiceSpec{EndpointSpec: &swarm.EndpointSpec{Mode: c.mode}, UpdateConfig: &swarm.UpdateConfig{Order: c.order}}
		key, value, _ := strings.Cut(c.labels, "=")
		s.Labels = map[string]string{key: value}
		if err := CheckLabels(s); c.want == ok && err != nil || c.want != ok && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s %s %s: %v, want %q", c.labels, c.mode, c.order, err, c.want)
		}
	}
	s := &swarm.ServiceSpec{RollbackConfig: &swarm.UpdateConfig{Order: swarm.UpdateOrderStartFirst}}
	s.Labels = map[string]string{labelStable: "1"}
	if CheckLabels(s) == nil {
		t.Error("a rollback may start first")
	}
}

// relabel changes a service's labels as an update does.
func (w *world) relabel(id, label, value string) {
	w.Helper()
	w.do(func(tx *store.Tx) {
		s := *tx.Service(id)
		s.Spec.Labels = map[string]string{label: value}
		tx.Update(&s)
	})
}

func (w *world) vips(id string) string {
	var out []string
	w.view(func(v *store.View) {
		for _, e := range v.Service(id).Endpoint.VirtualIPs {
			out = append(out, e.Addr.String())
		}
	})
	return strings.Join(out, " ")
}

func (w *world) wantVIPs(id, want string) {
	w.Helper()
	if got := w.vips(id); got != want {
		w.Errorf("%s has the virtual IPs %q, want %q", id, got, want)
	}
}

func TestFixedVIPs(t *testing.T) {
	inWorld(t, func(w *world) {
		six := net("front", "10.7.0.0/24", "fd00::/64")
		six.Spec.IPv6Enabled = true
		w.create(six, net("back", "10.8.0.0/24"))
		w.service("web", []string{"front", "back"})
		w.wantVIPs("web", "10.7.0.2/24 fd00::2/64 10.8.0.2/24")
		w.relabel("web", labelVIP, "10.7.0.50,back=10.8.0.60")
		w.wantVIPs("web", "10.7.0.50/24 fd00::2/64 10.8.0.60/24")
		w.relabel("web", labelVIP, "front=fd00::50,10.7.0.50")
		w.wantVIPs("web", "10.7.0.50/24 fd00::50/64 10.8.0.60/24")
		w.relabel("web", "other", "")
		w.wantVIPs("web", "10.7.0.50/24 fd00::50/64 10.8.0.60/24")

		// What another has is not taken from it; it is taken when it comes free.
		w.service("db", []string{"back"})
		w.relabel("db", labelVIP, "10.8.0.60")
		w.tasks("db", 1, 1)
		w.wantVIPs("db", "10.8.0.3/24")
		w.view(func(v *store.View) {
			const want = "label mesh.vip: 10.8.0.60 of network back is in use by service web"
			if s := v.Task("db.0001").Status; s.Err != want {
				t.Errorf("task %+v, want %s", s, want)
			}
		})
		w.relabel("web", labelVIP, "10.8.0.61")
		w.wantVIPs("web", "10.7.0.50/24 fd00::50/64 10.8.0.61/24")
		w.wantVIPs("db", "10.8.0.60/24")
		if n := w.count(swarm.TaskStatePending); n != 1 {
			t.Errorf("%d tasks have addresses", n)
		}
		// The address given up serves others.
		var task string
		w.view(func(v *store.View) { task = v.Task("db.0001").NetworksAttachments[1].Addresses[0].Addr().String() })
		w.relabel("web", labelVIP, task)
		w.wantVIPs("web", "10.7.0.50/24 fd00::50/64 10.8.0.61/24")
		w.do(func(tx *store.Tx) { tx.Remove(tx.Task("db.0001")) })
		w.wantVIPs("web", "10.7.0.50/24 fd00::50/64 "+task+"/24")
	})
}

func TestCheckVIPs(t *testing.T) {
	const ok = ""
	inWorld(t, func(w *world) {
		n := net("front", "10.7.0.0/24")
		n.Aux = map[string]netip.Addr{"printer": netip.MustParseAddr("10.7.0.9")}
		w.create(n, net("back", "10.8.0.0/24"))
		w.service("web", []string{"front", "back"})
		w.tasks("web", 1, 1)
		w.service("asks", []string{"nowhere"})
		w.relabel("asks", labelVIP, "10.7.0.77")
		for _, c := range []struct{ id, networks, value, want string }{
			{"", "front", "10.7.0.50", ok},
			{"", "front", "front=10.7.0.50", ok},
			{"", "front", "id-front=10.7.0.50", ok},
			{"", "front back", "10.8.0.50,10.7.0.50", ok},
			{"web", "front", "10.7.0.2", ok},
			{"", "front", "10.7.0.2", "10.7.0.2 of network front is in use by service web"},
			{"", "front", "10.7.0.3", "10.7.0.3 of network front is in use by task web.1 (web.0001)"},
			{"", "front", "10.7.0.77", "10.7.0.77 of network front is in use by service asks"},
			{"", "front", "10.7.0.1", "10.7.0.1 is the gateway of network front"},
			{"", "front", "10.7.0.9", `10.7.0.9 is auxiliary address "printer" of network front`},
			{"", "front", "10.7.0.255", "10.7.0.255 is the first or the last address of subnet 10.7.0.0/24"},
			{"", "front", "10.8.0.50", "10.8.0.50 is not an address of any network of the service (front 10.7.0.0/24)"},
			{"", "front", "front=10.8.0.50", "10.8.0.50 is not an address of network front 10.7.0.0/24"},
			{"", "front", "back=10.8.0.50", "the service is not on a network back"},
			{"", "", "10.8.0.50", "not an address of any network of the service (it has none)"},
			{"", "front", "10.255.0.50", "not an address of any network of the service"},
			{"", "front", "10.7.0.50,10.7.0.51", "10.7.0.51 is one more address of the same IP version on network front"},
		} {
			s := &swarm.ServiceSpec{}
			s.Labels = map[string]string{labelVIP: c.value}
			for _, n := range strings.Fields(c.networks) {
				s.TaskTemplate.Networks = append(s.TaskTemplate.Networks, swarm.NetworkAttachmentConfig{Target: n})
			}
			w.view(func(v *store.View) {
				err := CheckVIPs(v, c.id, s)
				if c.want == ok && err != nil || c.want != ok && (err == nil || !strings.HasPrefix(err.Error(), "label mesh.vip: "+c.want) && !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%s on %s: %v, want %q", c.value, c.networks, err, c.want)
				}
			})
		}
	})
}
