package observe

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/ipvs"
	"github.com/meshd/meshd/ipvs/ebpf"
	"github.com/meshd/meshd/orchestrator/dispatcher"
)

func webFlows(n int) []ebpf.Flow {
	out := make([]ebpf.Flow, n)
	for i := range out {
		out[i] = ebpf.Flow{
			Key: ipvs.Key{VNI: 4097, VIP: at("10.0.1.2")}, Service: "web", Protocol: ipvs.TCP, Origin: ebpf.OriginContainer,
			Client: netip.AddrPortFrom(at("10.0.1.13"), uint16(40000+i)), To: ap("10.0.1.2:80"), Backend: ap("10.0.1.12:80"), Closing: i == 0,
		}
	}
	return out
}

func TestMetrics(t *testing.T) {
	f := twoNodes()
	f.flows = webFlows(3)
	webIsOut(f)
	f.view.Held["n1"] = 18
	f.view.Behind = map[string]time.Time{"n1": time.Unix(996, 0)}
	f.member.Watched = []string{"a", "b"}
	f.member.Lags = []dispatcher.Lag{{Node: "b", Network: "n1", Held: 17, Revision: 20, Since: time.Unix(990, 0)}}
	f.resolver.Lookup(at("10.255.0.11"), "web")
	f.view.Desired.IPVS.Services = append(f.view.Desired.IPVS.Services, ipvs.Service{
		Key: ipvs.Key{VNI: 4096, VIP: netip.IPv6Unspecified(), Port: 8080, Protocol: ipvs.TCP}, Name: "web",
	})
	got := scrape(t, f.observer(t).Metrics())
	for _, line := range []string{
		`meshd_build_info{version="1.2.3"} 1`,
		`meshd_part_readable{part="overlay"} 1`,
		`meshd_service_connections_total{network="front",port="",protocol="",service="web",vip="10.0.1.2"} 7`,
		`meshd_service_packets_total{network="ingress",port="8080",protocol="tcp",service="web",vip=""} 70`,
		`meshd_service_backends{network="front",port="",protocol="",service="web",state="serving",vip="10.0.1.2"} 2`,
		`meshd_service_backends{network="ingress",port="8080",protocol="tcp",service="web",state="serving",vip="::"} 0`,
		`meshd_service_refused_total{network="front",port="",protocol="",reason="no-backend",service="web",vip="10.0.1.2"} 4`,
		`meshd_backend_connections_total{backend="10.0.1.12",network="front",port="",protocol="",service="web",vip="10.0.1.2"} 5`,
		`meshd_backend_bytes_total{backend="10.0.1.12",direction="to",network="front",port="",protocol="",service="web",vip="10.0.1.2"} 500`,
		`meshd_backend_bytes_total{backend="10.0.1.12",direction="from",network="front",port="",protocol="",service="web",vip="10.0.1.2"} 600`,
		`meshd_backend_failures_total{backend="10.0.1.12",kind="refused",network="front",port="",protocol="",service="web",vip="10.0.1.2"} 1`,
		`meshd_backend_failures_total{backend="10.0.1.12",kind="timeout",network="front",port="",protocol="",service="web",vip="10.0.1.2"} 2`,
		`meshd_backend_failures_total{backend="10.0.1.12",kind="reset",network="front",port="",protocol="",service="web",vip="10.0.1.2"} 3`,
		`meshd_backend_ejected_until_timestamp_seconds{backend="10.0.1.12",network="front",port="",protocol="",service="web",vip="10.0.1.2"} 1012`,
		`meshd_service_ejections_total{failure="no-answer",network="front",port="",protocol="",service="web",vip="10.0.1.2"} 1`,
		`meshd_backend_flows{backend="10.0.1.12",network="front",port="",protocol="",service="web",state="open",vip="10.0.1.2"} 2`,
		`meshd_backend_flows{backend="10.0.1.12",network="front",port="",protocol="",service="web",state="closing",vip="10.0.1.2"} 1`,
		`meshd_dropped_packets_total{part="overlay",reason="isolated"} 2`,
		`meshd_dropped_packets_total{part="balancer",reason="no-backend"} 5`,
		`meshd_dropped_packets_total{part="resolver",reason="share"} 0`,
		`meshd_repairs_total{kind="route",part="overlay"} 3`,
		`meshd_peers{transport="direct"} 2`,
		`meshd_map_entries{map="slots",part="balancer"} 7`,
		`meshd_map_capacity{map="slots",part="balancer"} 100`,
		`meshd_repairs_total{kind="service",part="balancer"} 1`,
		`meshd_network_endpoints{network="front",state="serving"} 3`,
		`meshd_network_revision{network="front"} 18`,
		`meshd_network_revision_told{network="front"} 20`,
		`meshd_network_lag_seconds{network="front"} 4`,
		`meshd_network_lag_seconds{network="back"} 0`,
		`meshd_dns_answer_seconds_count{source="tables"} 0`,
		`meshd_tasks{state="running"} 2`,
		`meshd_certificate_expiry_timestamp_seconds 2e+09`,
		`meshd_nodes_watched 2`, `meshd_network_node_lag_seconds{network="front",node="node2"} 10`,
		`meshd_raft_leading 1`, `meshd_raft_term 3`, `meshd_raft_commit_index 20`, `meshd_raft_members 1`,
		`go_goroutines `,
	} {
		if !strings.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

// Workers have no raft; what cannot be read hides nothing else.
func TestMetricsOfWhatIsThere(t *testing.T) {
	f := twoNodes()
	f.dropsErr = errBroken
	f.member = Member{}
	f.view = View{}
	got := scrape(t, f.observer(t).Metrics())
	if strings.Contains(got, "meshd_raft") || strings.Contains(got, "meshd_certificate") {
		t.Errorf("a node outside of a swarm has them:\n%s", got)
	}
	for _, line := range []string{`meshd_part_readable{part="overlay"} 0`, `meshd_part_readable{part="balancer"} 1`, "meshd_service_connections_total{"} {
		if !strings.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
}

func TestServeOverTCP(t *testing.T) {
	o := twoNodes().observer(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	const addr = "127.0.0.1:39323"
	go func() { done <- o.Serve(ctx, addr) }()
	var status int
	for deadline := time.Now().Add(time.Minute); status == 0 && time.Now().Before(deadline); {
		r, err := http.Get("http://" + addr + "/metrics")
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		status = r.StatusCode
		r.Body.Close()
	}
	if status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFlowsNameTasksAndNodes(t *testing.T) {
	f := twoNodes()
	f.flows = webFlows(2)
	f.flows = append(f.flows, ebpf.Flow{Key: ipvs.Key{VNI: 4099}, Service: "other", Protocol: ipvs.UDP, Idle: time.Hour})
	o := f.observer(t)
	for _, c := range []struct {
		service string
		all     bool
		want    int
	}{{"", false, 1}, {"", true, 3}, {"web", true, 2}, {"other", false, 0}, {"none", true, 0}} {
		got, err := o.Flows(t.Context(), c.service, c.all)
		if err != nil || len(got) != c.want || got == nil {
			t.Errorf("%q, all %v: %v, %v", c.service, c.all, got, err)
		}
	}
	got, _ := o.Flows(t.Context(), "web", false)
	if text := fmt.Sprint(got[0]); text != "{web front tcp 10.0.1.13:40001 10.0.1.2:80 10.0.1.12:80 web.2.t2 node2 container open 0}" {
		t.Error(text)
	}
}

// A port that is published for both IP versions is two services, with series of their own.
func TestMetricsOfBothIPVersions(t *testing.T) {
	f := twoNodes()
	for _, s := range f.held.Services {
		if s.Published() {
			s.VIP, s.Backends = netip.IPv6Unspecified(), nil
			f.held.Services = append(f.held.Services, s)
			f.view.Desired.IPVS.Services = append(f.view.Desired.IPVS.Services, s)
		}
	}
	got := scrape(t, f.observer(t).Metrics())
	for _, vip := range []string{"", "::"} {
		if want := `meshd_service_packets_total{network="ingress",port="8080",protocol="tcp",service="web",vip="` + vip + `"} 70`; !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
}
