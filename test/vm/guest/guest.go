// Package guest is the first process of a test's virtual machine, and what it and its host agree on. It puts a writable layer in memory
// on the host's files, mounts what a Linux machine has, runs one program, reports its exit status and turns the machine off.
package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Names of devices between guest and host, and of files in the guest's first file system.
const (
	OutputPort  = "output" // the program's output
	StatusPort  = "status" // its exit status in decimal, once
	RootTag     = "root"   // the host's file system
	Init        = "init"
	EarlyFolder = "early"
	TaskFile    = "task.json"
)

// Folders stand in the guest's first file system: those that something is mounted on.
func Folders() []string {
	return []string{"dev", "proc", "sys", "host", "layer", "root", EarlyFolder}
}

// Task is what the guest does.
type Task struct {
	Early       []string // modules, files in the first file system, in the order in which they load
	Modules     string   // the folder with all modules of the kernel, in the host's file system
	Folder      string   // where the program starts
	Command     []string
	Environment []string
}

// cannotRun is the status of a program that could not be started, as env(1) has it.
const cannotRun = 126

// Main does the task and turns the machine off.
func Main() {
	if err := run(); err != nil {
		fmt.Println("init:", err) // the console; the host shows it when no status arrives
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	text, err := os.ReadFile("/" + TaskFile)
	if err != nil {
		return err
	}
	var task Task
	if err := json.Unmarshal(text, &task); err != nil {
		return err
	}
	for _, module := range task.Early {
		if err := load("/" + module); err != nil {
			return fmt.Errorf("load %s: %w", module, err)
		}
	}
	if err := mountAll(task.Modules); err != nil {
		return err
	}
	output, err := port(OutputPort)
	if err != nil {
		return err
	}
	report, err := port(StatusPort)
	if err != nil {
		return err
	}
	status, err := task.run(output)
	if err != nil {
		fmt.Fprintln(output, "vm:", err)
		status = cannotRun
	}
	_, err = report.WriteString(strconv.Itoa(status))
	return err
}

// run runs the program to its end, and buries what it leaves to the first process.
func (t Task) run(output *os.File) (int, error) {
	for _, variable := range t.Environment {
		if name, value, ok := strings.Cut(variable, "="); ok {
			os.Setenv(name, value) // the program is looked for in the host's PATH
		}
	}
	if text, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("ip link set lo up: %w: %s", err, text)
	}
	program := exec.Command(t.Command[0], t.Command[1:]...)
	program.Dir, program.Stdout, program.Stderr = t.Folder, output, output
	if err := program.Start(); err != nil {
		return 0, err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR) || err == nil && pid != program.Process.Pid:
		case err != nil:
			return 0, err
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}
