// Command vm runs a package's tests, or any program, under another kernel, and exits with its status:
//
//	go run ./test/vm -kernel 6.12 ./overlay -run TestContainersReachEachOther -v
//	go run ./test/vm -kernel 6.1 uname -a
//
// The guest has this machine's whole file system beneath its own: the program, the folder that it starts in and every tool that it
// calls stand at the same paths. What it writes stays in the guest's memory. So a lab with real Docker Engines starts in there like
// outside; up to half of the memory holds what the engines store. kernel.sh fetches kernels; run.sh runs what the table "tests" has.
//
// qemu emulates the processor, since machines that build software rarely lend theirs: about a tenth of the speed, three seconds to boot.
// Nothing may be concluded from the speed of anything in there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/meshd/meshd/test/vm/guest"
)

// Exit statuses beside the program's own, as timeout(1) has them.
const (
	statusTimeout = 124
	statusFailed  = 125
)

func main() {
	if os.Args[0] == "/"+guest.Init { // the host's program is the guest's first process
		guest.Main()
	}
	var m machine
	flag.StringVar(&m.kernel, "kernel", "6.12", "6.12 or 6.1")
	flag.IntVar(&m.memory, "memory", 2048, "the guest's memory in MiB; files written in it are in there, too")
	flag.IntVar(&m.processors, "processors", 2, "the guest's processors")
	flag.DurationVar(&m.timeout, "timeout", 10*time.Minute, "the guest is ended after this time")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "vm: what is to run? vm [FLAGS] PACKAGE-FOLDER [GO-TEST-ARG...], or vm [FLAGS] PROGRAM [ARG...]")
		os.Exit(statusFailed)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	run := m.run
	if info, err := os.Stat(flag.Arg(0)); err == nil && info.IsDir() {
		run = m.test
	}
	status, err := run(ctx, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		status = statusFailed
		if errors.Is(err, context.DeadlineExceeded) {
			status = statusTimeout
		}
	}
	os.Exit(status)
}

// test has go test build a package's tests and run them by this program.
func (m machine) test(ctx context.Context, arguments []string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	again := fmt.Sprintf("%s -kernel %s -memory %d -processors %d -timeout %v", self, m.kernel, m.memory, m.processors, m.timeout)
	test := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "-timeout", m.timeout.String(), "-exec", again}, arguments...)...)
	test.Env = append(os.Environ(), "CGO_ENABLED=0")
	test.Stdout, test.Stderr = os.Stdout, os.Stderr
	err = test.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return failed.ExitCode(), nil
	}
	return 0, err
}
