package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// userHZ is the unit of times in /proc: a hundredth of a second on all
// architectures that Go runs on (time(7)).
const userHZ = 100

// cpuOf is the time of user and kernel in /proc/PID/stat, fields 14 and 15.
func cpuOf(stat string) (time.Duration, error) {
	f := strings.Fields(stat[strings.LastIndex(stat, ")")+1:]) // the name before may have blanks
	if len(f) < 13 {
		return 0, fmt.Errorf("cannot read %q as /proc/PID/stat", stat)
	}
	user, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * time.Second / userHZ, err
}

// kilobytes is a field of /proc/PID/status, in bytes.
func kilobytes(status, field string) (int64, error) {
	for line := range strings.Lines(status) {
		if text, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no field %s in /proc/PID/status", field)
}
