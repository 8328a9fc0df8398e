package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestVoting runs the voting app of examples/voting, whose image every node pulls from a registry that asks for a password.
func TestVoting(t *testing.T) {
	requireMachine(t)
	const name = "e2e-voting"
	for _, file := range []string{"app.tar", "databases.tar"} {
		if !isFile("../../build/voting/" + file) {
			t.Fatalf("there is no build/voting/%s: run make voting-images", file)
		}
	}
	c := up(t, name, "--nodes", "3", "--managers", "1")
	r := newRegistry(t, c)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *registry)
	}{
		{"digests", testDigests},
		{"tags", testTags},
		{"refused", testRefused},
		{"registry away", testRegistryAway},
		{"deploy", testDeploy},
		{"votes", testVotes},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			sub := *r
			sub.cluster = c.sub(t)
			step.run(t, &sub)
			r.proc = sub.proc
		})
		if !ok {
			return // later steps build on earlier ones
		}
	}
}

// testDeploy brings the app up. Redis and PostgreSQL are not in the registry: node1 has them, under names that look as if.
func testDeploy(t *testing.T, r *registry) {
	for _, file := range []string{"app.tar", "databases.tar"} {
		r.must(r.known, "node1", "load", "-i", "../../build/voting/"+file)
	}
	for _, image := range []string{"redis", "postgres"} {
		r.must(r.known, "node1", "tag", "voting/"+image, r.addr+"/voting/"+image)
	}
	r.push("voting/app:latest", "voting/app:latest")
	r.mustDocker("node1", "node", "update", "--label-add", "data=here", "node1")
	r.mustDocker("node1", "secret", "create", "voting-password", temporary(t, "sesame"))
	t.Setenv("REGISTRY", r.addr+"/")
	deploy := func(args ...string) {
		t.Helper()
		args = append(append([]string{"stack", "deploy", "--with-registry-auth"}, args...), "-c", "../../examples/voting/stack.yaml", "voting")
		if got := r.as(r.known, "node1", args...); got.code != 0 {
			t.Fatalf("docker %s: %v", strings.Join(args, " "), got)
		}
	}
	deploy("--resolve-image", "never")
	if got := r.imageOf("voting_vote"); got != "voting/app:latest" {
		t.Errorf("never resolved, the image is %s", got)
	}
	pinned := ""
	r.eventually("the images are resolved", func() error { // a slow registry is not waited for where the node has the image
		deploy()
		if pinned = r.imageOf("voting_vote"); !strings.HasPrefix(pinned, "voting/app:latest@sha256:") {
			return fmt.Errorf("the image is %s", pinned)
		}
		return nil
	})
	r.push("meshd/sample:2", "voting/app:latest")
	deploy("--resolve-image", "changed")
	if got := r.imageOf("voting_vote"); got != pinned {
		t.Errorf("the file did not change, and the image is %s, no more %s", got, pinned)
	}
	for service, n := range map[string]int{"vote": 2, "redis": 1, "worker": 1, "db": 1, "result": 1} {
		r.running("node1", "voting_"+service, n)
	}
	r.credentialsStayOffDisks()
}

// votes casts a vote through one node and waits for the count at another.
func (r *registry) votes(through, seen, choice, want string) {
	r.t.Helper()
	r.eventually("a vote for "+choice+" is taken", func() error {
		got := r.outside("curl", "-sS", "--fail-with-body", "-m", "5", "-d", "vote="+choice, "http://"+r.address(through)+":5000")
		if got.code != 0 || !strings.Contains(got.out, "a vote for "+choice) {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	r.eventually("the result is "+want, func() error {
		got := r.outside("curl", "-sS", "--fail-with-body", "-m", "5", "http://"+r.address(seen)+":5001")
		if got.code != 0 || got.out != want {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// testVotes: votes are taken and counted whatever ends meanwhile.
func testVotes(t *testing.T, r *registry) {
	r.votes("node2", "node3", "a", "a=1 b=0")
	gone := r.tasks("node1", "voting_result")[0]
	r.mustDocker(gone.Node, "rm", "-f", gone.Name+"."+gone.ID)
	db := r.tasks("node1", "voting_db")[0]
	r.mustDocker(db.Node, "rm", "-f", db.Name+"."+db.ID)
	r.votes("node3", "node2", "b", "a=1 b=1") // the volume kept the first

	worker := ""
	for _, tk := range r.tasks("node1", "voting_vote") {
		if tk.Node != "node1" {
			worker = tk.Node
		}
	}
	if worker == "" {
		t.Fatal("no worker holds vote")
	}
	other := map[string]string{"node2": "node3", "node3": "node2"}[worker]
	if err := r.lab().Kill(t.Context(), worker); err != nil {
		t.Fatal(err)
	}
	// Nobody knows yet that it has no power; its logs cost a line at the end.
	if got := r.docker("node1", "service", "logs", "voting_vote"); got.code != 1 || strings.Count(got.err, " on node "+worker+": ") == 0 || !strings.Contains(got.err, "vote listens on") {
		t.Errorf("logs of a service with a task on a dead node: %v", got)
	}
	r.votes(other, "node1", "a", "a=2 b=1")
	r.running("node1", "voting_vote", 2)
	for _, tk := range r.tasks("node1", "voting_vote") {
		if tk.Node == worker {
			t.Errorf("a task of vote is said to run on %s, which has no power", worker)
		}
	}
}
