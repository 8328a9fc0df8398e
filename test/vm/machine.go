package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/meshd/meshd/test/vm/guest"
)

// machine is a virtual machine that lives for one program.
type machine struct {
	kernel     string // as kernel.sh knows it
	memory     int    // MiB
	processors int
	timeout    time.Duration
}

// run boots the machine, runs the program in it with this process's folder and environment, its output on ours, and returns its exit
// status. If that is not 0, or there is none, the last lines of the guest's console follow.
func (m machine) run(ctx context.Context, command []string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	scratch, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(scratch)
	k, err := findKernel(ctx, m.kernel)
	if err != nil {
		return 0, err
	}
	if err := k.writeInitramfs(ctx, filepath.Join(scratch, "initramfs"), command); err != nil {
		return 0, err
	}
	stop, err := shareRoot(ctx, filepath.Join(scratch, "root.sock"))
	if err != nil {
		return 0, err
	}
	defer stop()

	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", m.arguments(k, scratch)...)
	// Through a pipe: qemu opens its /dev/stdout anew, and would empty a file.
	qemu.Stdout, qemu.Stderr = struct{ io.Writer }{os.Stdout}, os.Stderr
	err = qemu.Run()
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("the guest was ended: %w%s", ctx.Err(), console(scratch))
	case err != nil:
		return 0, fmt.Errorf("qemu: %w%s", err, console(scratch))
	}
	report, err := os.ReadFile(filepath.Join(scratch, "status"))
	if err != nil {
		return 0, err
	}
	status, err := strconv.Atoi(string(report))
	if err != nil {
		return 0, errors.New("the guest ended without reporting a status" + console(scratch))
	}
	if status != 0 {
		fmt.Fprintf(os.Stderr, "vm: the program ended with status %d on Linux %s%s\n", status, m.kernel, console(scratch))
	}
	return status, nil
}

// arguments are qemu's. Machine pc: microvm hangs at boot now and then. A file for the guest's output and not stdio: at the end of an
// empty input qemu would close both directions.
func (m machine) arguments(k kernel, scratch string) []string {
	in := func(name string) string { return filepath.Join(scratch, name) }
	return []string{
		"-machine", "pc,memory-backend=memory", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", strconv.Itoa(m.processors),
		"-m", strconv.Itoa(m.memory), "-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%dM,share=on", m.memory),
		"-kernel", k.image, "-initrd", in("initramfs"),
		"-append", "console=ttyS0,115200 quiet loglevel=4 panic=-1 oops=panic mitigations=off random.trust_cpu=on cryptomgr.notests rdinit=/" + guest.Init,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
		"-serial", "file:" + in("console"),
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=output,path=/dev/stdout", "-device", "virtserialport,chardev=output,name=" + guest.OutputPort,
		"-chardev", "file,id=status,path=" + in("status"), "-device", "virtserialport,chardev=status,name=" + guest.StatusPort,
		"-chardev", "socket,id=root,path=" + in("root.sock"), "-device", "vhost-user-fs-pci,chardev=root,tag=" + guest.RootTag,
	}
}

// shareRoot serves this machine's files to one guest, until the returned function is called. The guest only reads them: all that it
// writes goes to a layer above.
func shareRoot(ctx context.Context, socket string) (stop func(), err error) {
	const program = "/usr/lib/qemu/virtiofsd" // Debian's place; nobody has it in a PATH
	serve := exec.CommandContext(ctx, program, "--socket-path="+socket, "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot")
	var said strings.Builder
	serve.Stderr = &said
	if err := serve.Start(); err != nil {
		return nil, fmt.Errorf("share this machine's files with the guest: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve.Wait() }()
	stop = func() {
		serve.Process.Kill()
		<-ended
	}
	for deadline := time.After(time.Minute); ; {
		if _, err := os.Stat(socket); err == nil {
			return stop, nil
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("%s: %w: %s", program, err, said.String())
		case <-deadline:
			stop()
			return nil, fmt.Errorf("%s does not listen on %s", program, socket)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// console returns the last lines of the guest's console, to be appended to an error.
func console(scratch string) string {
	const most = 40
	text, err := os.ReadFile(filepath.Join(scratch, "console"))
	if err != nil || len(text) == 0 {
		return "; its console is empty"
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "; its console ends with:\n" + strings.Join(lines[max(0, len(lines)-most):], "\n")
}
