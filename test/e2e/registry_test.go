package e2e

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/meshd/meshd/test/lab"
)

const registryUser, registryPassword = "voter", "open-the-registry"

// registry is Debian's docker-registry, with one user, on the machine beside the cluster.
type registry struct {
	*cluster
	addr string
	dir  string
	proc *exec.Cmd
	// known is the client's configuration with the right credentials, other one with wrong ones.
	known, other string
}

func newRegistry(t *testing.T, c *cluster) *registry {
	t.Helper()
	dir := t.TempDir()
	r := &registry{cluster: c, dir: dir, addr: net.JoinHostPort(c.addressesOf(lab.Client)[0], "5000")}
	hash, err := bcrypt.GenerateFromPassword([]byte(registryPassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	r.write("users", registryUser+":"+string(hash)+"\n")
	r.write("config.yml", fmt.Sprintf(`version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s}}
http: {addr: %q}
auth: {htpasswd: {realm: lab, path: %s}}
`, filepath.Join(dir, "data"), r.addr, filepath.Join(dir, "users")))
	r.known, r.other = filepath.Join(dir, "known"), filepath.Join(dir, "other")
	token := base64.StdEncoding.EncodeToString([]byte(registryUser + ":wrong"))
	r.write("other/config.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, r.addr, token))
	r.start()
	t.Cleanup(r.stop)
	return r
}

func (r *registry) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// start returns when the registry answers the nodes.
func (r *registry) start() {
	r.t.Helper()
	program, err := filepath.Abs("../../build/registry/usr/bin/docker-registry")
	if err != nil || !isFile(program) {
		r.t.Fatal("there is no build/registry: run make registry")
	}
	log, err := os.OpenFile(filepath.Join(r.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	r.proc = exec.Command("ip", "netns", "exec", r.name+"-client", program, "serve", filepath.Join(r.dir, "config.yml"))
	r.proc.Stdout, r.proc.Stderr = log, log
	r.proc.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.proc.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.eventually("the registry answers", func() error {
		if got := r.on("node1", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://"+r.addr+"/v2/"); got.out != "401" {
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%v; it says: %s", got, said)
		}
		return nil
	})
}

func (r *registry) stop() {
	_ = r.proc.Process.Kill()
	_ = r.proc.Wait()
}

// as runs the official client with credentials from a configuration; "" has none.
func (r *registry) as(config, node string, args ...string) result {
	r.t.Helper()
	if config == "" {
		config = filepath.Join(r.dir, "none")
	}
	return r.runEnv("docker", []string{"DOCKER_HOST=unix://" + r.socket(node), "DOCKER_CONFIG=" + config}, append([]string{"docker"}, args...)...)
}

func (r *registry) must(config, node string, args ...string) string {
	r.t.Helper()
	got := r.as(config, node, args...)
	if got.code != 0 {
		r.t.Fatalf("docker (%s) %s: %v", node, strings.Join(args, " "), got)
	}
	return got.out
}

// push puts one of node1's images there under another name.
func (r *registry) push(from, name string) {
	r.t.Helper()
	r.must(r.known, "node1", "tag", from, r.addr+"/"+name)
	r.must(r.known, "node1", "push", r.addr+"/"+name)
	r.must(r.known, "node1", "rmi", r.addr+"/"+name)
}

// imageOf is the image of a service's spec, without the registry's address.
func (r *registry) imageOf(service string) string {
	r.t.Helper()
	return strings.TrimPrefix(r.mustDocker("node1", "service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", service), r.addr+"/")
}

// versionRuns waits until n tasks of a service run, all with one version of the sample.
func (r *registry) versionRuns(service, version string, n int) {
	r.t.Helper()
	r.eventually(service+" runs version "+version, func() error {
		tasks := r.tasks("node1", service)
		if len(tasks) != n {
			return fmt.Errorf("%d tasks run, want %d: %v", len(tasks), n, r.docker("node1", "service", "ps", "--no-trunc", service))
		}
		for _, tk := range tasks {
			got := r.docker(tk.Node, "inspect", "--format", `{{index .Config.Labels "meshd.sample.version"}}`, tk.Name+"."+tk.ID)
			if got.out != version {
				return fmt.Errorf("the task on %s: %v", tk.Node, got)
			}
		}
		return nil
	})
}

// complains waits until a task of a service says why it does not run.
func (r *registry) complains(service string, want ...string) {
	r.t.Helper()
	r.eventually(service+" says what is wrong", func() error {
		rows := r.mustDocker("node1", "service", "ps", "--no-trunc", "--format", "{{.Node}} {{.CurrentState}} {{.Error}}", service)
		for _, w := range want {
			if !strings.Contains(rows, w) {
				return fmt.Errorf("no %q in %s", w, rows)
			}
		}
		return nil
	})
}

func (r *registry) remove(service string) {
	r.t.Helper()
	r.mustDocker("node1", "service", "rm", service)
}

// testDigests: every node pulls with the client's credentials what the tag stood for when the client asked.
func testDigests(t *testing.T, r *registry) {
	if got := r.as(r.known, "node1", "login", "-u", registryUser, "-p", registryPassword, r.addr); !strings.Contains(got.out, "Login Succeeded") {
		t.Fatalf("login: %v", got)
	}
	r.must(r.known, "node1", "load", "-i", "../../build/sample.tar")
	r.push("meshd/sample:latest", "sample:now")
	r.must(r.known, "node1", "service", "create", "-q", "--detach=false", "--with-registry-auth", "--name", "every", "--mode", "global", r.addr+"/sample:now")
	r.versionRuns("every", "1", 3)
	first := r.imageOf("every")
	if !strings.HasPrefix(first, "sample:now@sha256:") {
		t.Errorf("the image is %s, without a digest", first)
	}
	r.push("meshd/sample:2", "sample:now")
	r.must(r.known, "node1", "service", "update", "-q", "--detach=false", "--force", "every") // no image is named: it stays
	r.versionRuns("every", "1", 3)
	r.must(r.known, "node1", "service", "update", "-q", "--detach=false", "--with-registry-auth", "--image", r.addr+"/sample:now", "every")
	r.versionRuns("every", "2", 3)
	if second := r.imageOf("every"); second == first || !strings.HasPrefix(second, "sample:now@sha256:") {
		t.Errorf("the tag's new image is %s, before it was %s", second, first)
	}
	r.remove("every")
}

// testTags: without a digest, each new task gets what the tag stands for by then.
func testTags(t *testing.T, r *registry) {
	r.must(r.known, "node1", "service", "create", "-q", "--detach=false", "--with-registry-auth", "--no-resolve-image", "--name", "tag",
		"--constraint", "node.hostname==node2", r.addr+"/sample:now")
	r.versionRuns("tag", "2", 1)
	if got := r.imageOf("tag"); got != "sample:now" {
		t.Errorf("the image is %s", got)
	}
	r.push("meshd/sample:latest", "sample:now")
	r.must(r.known, "node1", "service", "update", "-q", "--detach=false", "--force", "tag")
	r.versionRuns("tag", "1", 1)
	r.stop()
	r.must(r.known, "node1", "service", "update", "-q", "--detach=false", "--force", "tag") // the node has it
	r.versionRuns("tag", "1", 1)
	r.start()
	r.remove("tag")
}

// testRefused: who is not let in is told so, and new credentials mend it.
func testRefused(t *testing.T, r *registry) {
	r.push("meshd/sample:2", "private:1")
	image := r.addr + "/private:1"
	on := []string{"service", "create", "-d", "--constraint", "node.hostname==node3", "--name"}
	r.must(r.known, "node1", append(on, "stranger", image)...)
	r.complains("stranger", "node3 Rejected", "No such image: "+image, "no basic auth credentials (--with-registry-auth")
	r.remove("stranger")

	r.must(r.other, "node1", append(on, "wrong", "--with-registry-auth", image)...)
	r.complains("wrong", "node3 Rejected", "No such image: "+image, "unauthorized")
	r.must(r.known, "node1", "service", "update", "-q", "-d", "--with-registry-auth", "wrong")
	r.versionRuns("wrong", "2", 1)
	r.remove("wrong")

	r.must(r.known, "node1", append(on, "absent", "--with-registry-auth", r.addr+"/private:2")...)
	r.complains("absent", "node3 Rejected", "manifest for "+r.addr+"/private:2 not found")
	r.remove("absent")
}

// testRegistryAway: tasks wait for it, say so, and start when it is back.
func testRegistryAway(t *testing.T, r *registry) {
	r.push("meshd/sample:2", "patient:1")
	r.stop()
	r.must(r.known, "node1", "service", "create", "-d", "--with-registry-auth", "--name", "patient", "--restart-condition", "none",
		"--constraint", "node.hostname==node3", r.addr+"/patient:1")
	r.complains("patient", "node3 Preparing", "No such image: "+r.addr+"/patient:1", "connection refused")
	r.start()
	r.versionRuns("patient", "2", 1)
	r.remove("patient")
}

// credentialsStayOffDisks looks for the registry's password where nodes keep things.
func (r *registry) credentialsStayOffDisks() {
	r.t.Helper()
	encoded := base64.URLEncoding.EncodeToString([]byte(`{"username":"` + registryUser + `","password":"` + registryPassword))
	for _, node := range []string{"node1", "node2", "node3"} {
		for _, secret := range []string{registryPassword, encoded[:len(encoded)-4]} {
			if got := r.on(node, "grep", "-rlsaF", secret, filepath.Join("/run/meshd", r.name, node), filepath.Join("/var/lib/meshd-lab", r.name, node, "meshd")); got.code == 0 {
				r.t.Errorf("the registry's credentials are on %s: %s", node, got.out)
			}
		}
	}
}
