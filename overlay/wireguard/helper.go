package wireguard

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
)

// A TUN device goes with the process that has it open, and its sessions with it. So
// wireguard-go has a process of its own, which a restart of its maker leaves alone.
// It ends when its device is deleted.

// CanServe says whether this machine has what wireguard-go needs.
func CanServe() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("wireguard-go needs TUN devices: %w", err)
	}
	return f.Close()
}

// HelperCommand is the first argument by which a program becomes the helper: it has
// to call Serve then. Behind it stand the device's name and MTU.
const HelperCommand = "wireguard"

// ready is what the helper says when it can be configured.
const ready = "ready"

// Start starts this program again as the helper of a device, in the network namespace
// of the calling thread, and returns when the device is there. What ended helpers left
// goes first.
func Start(name string, mtu int) error {
	if err := os.Remove(socketPath(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	cmd := exec.Command("/proc/self/exe", HelperCommand, name, strconv.Itoa(mtu))
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start wireguard-go: %w", err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(said) == ready {
		go func() { _ = cmd.Wait() }() // for as long as this process lives
		return nil
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if said = strings.TrimSpace(said); said == "" {
		said = fmt.Sprint("it ended: ", err)
	}
	return fmt.Errorf("start wireguard-go for %s: %s", name, said)
}

// Serve is the helper: it runs wireguard-go until the device is gone. args are those
// behind HelperCommand.
func Serve(args []string) error {
	const want = 2
	if len(args) != want {
		return fmt.Errorf("usage: %s DEVICE MTU", HelperCommand)
	}
	err := serve(args[0], args[1])
	if err != nil {
		fmt.Println(err) // Start tells it
	}
	return err
}

func serve(name, size string) error {
	mtu, err := strconv.Atoi(size)
	if err != nil {
		return fmt.Errorf("MTU: %w", err)
	}
	t, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return fmt.Errorf("make TUN device %s (is there /dev/net/tun?): %w", name, err)
	}
	socket, err := ipc.UAPIOpen(name)
	if err != nil {
		return errors.Join(err, t.Close())
	}
	logger := &device.Logger{Verbosef: device.DiscardLogf, Errorf: log.New(os.Stderr, "wireguard-go "+name+": ", log.LstdFlags).Printf}
	dev := device.NewDevice(t, conn.NewDefaultBind(), logger)
	defer dev.Close()
	listener, err := ipc.UAPIListen(name, socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	fmt.Println(ready)
	// Nobody reads on: whoever started us may end, and its terminal with it.
	if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
		for _, fd := range []int{0, 1} {
			_ = unix.Dup3(int(null.Fd()), fd, 0)
		}
	}
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP, unix.SIGINT)
	failed := make(chan error, 1)
	go func() { failed <- accept(listener, dev) }()
	select {
	case <-dev.Wait():
		return nil
	case err := <-failed:
		return err
	}
}

func accept(l net.Listener, dev *device.Device) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("configuration socket: %w", err)
		}
		go dev.IpcHandle(c)
	}
}

// socketPath is where wireguard-go is configured, as all of its tools know.
func socketPath(name string) string { return "/var/run/wireguard/" + name + ".sock" }

// refused says that nobody listens on a socket any more.
func refused(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, io.EOF)
}
