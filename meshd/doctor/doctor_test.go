package doctor

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/overlay"
)

// level is that of a check among findings, and what it says.
func level(findings []Finding, check string) (Level, string) {
	for _, f := range findings {
		if f.Check == check {
			return f.Level, f.Says
		}
	}
	return "", ""
}

// two nodes that reach each other.
func two() []Report {
	open := overlay.Arrival{Small: true, Full: true, Size: 1500}
	return []Report{
		{Node: "a", Hostname: "one", Ways: []Way{{Peer: "b", Addr: netip.MustParseAddr("192.0.2.2"), Arrived: open}}},
		{Node: "b", Hostname: "two", Ways: []Way{{Peer: "a", Addr: netip.MustParseAddr("192.0.2.1"), Arrived: open}}},
	}
}

func TestClosedWaysNameThePair(t *testing.T) {
	for _, c := range []struct {
		name, check, says string
		harm              func([]Report)
	}{
		{"nothing", "", "", func([]Report) {}},
		{"tunnel", "overlay", "two -> one: no tunnel packet arrives", func(r []Report) { r[0].Ways[0].Arrived = overlay.Arrival{} }},
		{"MTU", "MTU", "one -> two: small packets arrive, those of 1500 bytes do not", func(r []Report) { r[1].Ways[0].Arrived.Full = false }},
		{"gossip", "gossip", "one -> two: UDP: late", func(r []Report) { r[0].Ways[0].GossipUDP = "late" }},
		{"gossip's streams", "gossip", "one -> two: TCP: shut", func(r []Report) { r[0].Ways[0].GossipTCP = "shut" }},
		{"control", "control", "two -> one: shut", func(r []Report) { r[1].Ways[0].Control = "shut" }},
		{"a node that is away has no ways", "", "", func(r []Report) { r[1] = Report{Node: "b", Error: "down"}; r[0].Ways[0].Arrived = overlay.Arrival{} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			reports := two()
			c.harm(reports)
			found := Judge(reports, 4789, 7946)
			if c.check == "" {
				if len(found) > 1 || len(found) == 1 && found[0].Level != OK {
					t.Errorf("found %+v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Check != c.check || found[0].Says != c.says || found[0].Level != Problem || found[0].Advice == "" {
				t.Errorf("found %+v", found)
			}
		})
	}
}

// What one examination missed and a later one saw is open; what none saw is not.
func TestLaterExaminationsCount(t *testing.T) {
	first, later := two(), two()
	first[0].Ways[0].Arrived, first[0].Ways[0].GossipUDP = overlay.Arrival{}, "late"
	first[1].Ways[0].Control, later[1].Ways[0].Control = "shut", "shut"
	Better(first, later)
	found := Judge(first, 4789, 7946)
	if len(found) != 1 || found[0].Check != "control" {
		t.Errorf("found %+v", found)
	}
}

func TestQuorumCertificateAndClock(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		f    Finding
		want Level
	}{
		{Quorum(3, 3, true), OK}, {Quorum(3, 2, true), Problem}, {Quorum(3, 1, false), Problem}, {Quorum(1, 1, true), OK},
		{Quorum(2, 2, true), Problem}, {Quorum(4, 4, true), Problem}, {Quorum(7, 7, true), OK}, {Quorum(9, 9, true), Problem},
		{Certificate(now.Add(60*24*time.Hour), now), OK}, {Certificate(now.Add(time.Hour), now), Problem},
		{Skew(Report{Time: now.Add(time.Second)}, now), OK}, {Skew(Report{Time: now.Add(-time.Minute)}, now), Problem},
	} {
		if c.f.Level != c.want || c.want == Problem && c.f.Advice == "" {
			t.Errorf("%+v, want %s", c.f, c.want)
		}
	}
}

// fakeEngine answers /info on a socket.
func fakeEngine(t *testing.T, info string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "engine.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(info)) }))
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return path
}

func TestEngines(t *testing.T) {
	for _, c := range []struct{ info, check, says string }{
		{`{"ServerVersion":"19.03.1","LiveRestoreEnabled":true}`, "engine", "too old"},
		{`{"ServerVersion":"28.0.0"}`, "live-restore", "off"},
		{`{"ServerVersion":"28.0.0","LiveRestoreEnabled":true,"Swarm":{"LocalNodeState":"active"}}`, "engine's swarm", "a Docker swarm of its own"},
	} {
		if l, says := level(engine(t.Context(), fakeEngine(t, c.info)), c.check); l != Problem || !strings.Contains(says, c.says) {
			t.Errorf("%s: %s %s %q", c.info, c.check, l, says)
		}
	}
	for _, f := range engine(t.Context(), fakeEngine(t, `{"ServerVersion":"28.0.0","LiveRestoreEnabled":true,"Swarm":{"LocalNodeState":"inactive"}}`)) {
		if f.Level != OK {
			t.Errorf("of a good engine: %+v", f)
		}
	}
	if l, _ := level(engine(t.Context(), "/nonexistent.sock"), "engine"); l != Problem {
		t.Error("an engine that is not there is no problem")
	}
}

func TestTakenPorts(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := uint16(l.Addr().(*net.TCPAddr).Port)
	if f := port(t.Context(), Port{"tcp", taken, "control"}); f.Level != Problem || f.Advice == "" {
		t.Errorf("%+v", f)
	}
	if f := port(t.Context(), Port{"udp", 0, "overlay"}); f.Level != OK {
		t.Errorf("%+v", f)
	}
}

// With and without rights, every check says something.
func TestMachine(t *testing.T) {
	found := Machine(t.Context(), Config{Engine: "/nonexistent.sock", Ports: DefaultPorts()})
	for _, check := range []string{"kernel", "cgroup v2", "eBPF", "VXLAN", "nftables", "conntrack", "MTU", "engine", "port 2377/tcp", "firewall"} {
		if l, says := level(found, check); l == "" || says == "" {
			t.Errorf("nothing about %s in %+v", check, found)
		}
	}
}

func TestNodesThatAreNotReachedEncryptedAreProblems(t *testing.T) {
	found := Encryption([]string{"node2", "node3"}, 3)
	if len(found) != 2 || found[1].Level != Problem || found[1].Says != "no WireGuard session with node3" || found[1].Advice == "" {
		t.Errorf("two of three are silent: %+v", found)
	}
	if l, says := level(Encryption(nil, 3), "encryption"); l != OK || !strings.Contains(says, "all 3 nodes") {
		t.Errorf("none is silent: %s %s", l, says)
	}
	if found := Encryption(nil, 0); len(found) != 0 {
		t.Errorf("nothing is encrypted: %+v", found)
	}
}
