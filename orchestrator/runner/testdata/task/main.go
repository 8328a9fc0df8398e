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
	case "check": // is the file there?
		if _, err := os.Stat(os.Args[2]); err != nil {
			os.Exit(1)
		}
	}
}
