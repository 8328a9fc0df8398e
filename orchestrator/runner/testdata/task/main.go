// Command task is what the runner's tests run in containers.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(64)
	}
	switch os.Args[1] {
	case "serve": // until told to stop
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGUSR1)
		fmt.Println("env", os.Getenv("WHO"))
		<-c
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		select {
		case <-time.After(time.Hour):
		}
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	case "read": // does the file hold the text, with the mode, in memory?
		info, err := os.Stat(os.Args[2])
		data, rerr := os.ReadFile(os.Args[2])
		var fs syscall.Statfs_t
		serr := syscall.Statfs(os.Args[2], &fs)
		got := fmt.Sprintf("%v %v %v %x %s", err, rerr, serr, fs.Type, data)
		if err == nil {
			owner := info.Sys().(*syscall.Stat_t)
			got = fmt.Sprintf("%o %d:%d %x %s", info.Mode().Perm(), owner.Uid, owner.Gid, fs.Type, data)
		}
		if got != os.Args[3] {
			fmt.Println(got)
			os.Exit(1)
		}
	case "check": // is the file there?
		if _, err := os.Stat(os.Args[2]); err != nil {
			os.Exit(1)
		}
	}
}
