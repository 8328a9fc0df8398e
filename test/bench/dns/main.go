// Command dns measures the resolver with dnsperf against CoreDNS, each on one CPU
// with the same names, and against Docker's embedded resolver, both from inside a
// container. All are measured in turn; it prints medians.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/meshd/meshd/test/lab"
)

func main() {
	if code, ran := lab.Reexec(); ran {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command's flags.
type options struct {
	rounds, seconds int
	offered         int
	coredns         string
	dnsperf         string
	meshd, image    string
	profile         string
	dir             string
}

func run(ctx context.Context) error {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how often each figure is taken")
	flag.IntVar(&o.seconds, "seconds", 3, "how long each takes")
	flag.IntVar(&o.offered, "offered", 5000, "queries a second for the latencies; all have to carry them")
	flag.StringVar(&o.coredns, "coredns", "", "the CoreDNS to compare with; without one it is left out")
	flag.StringVar(&o.dnsperf, "dnsperf", "dnsperf", "the load generator")
	flag.StringVar(&o.meshd, "meshd", "bin/meshd", "the daemon to measure against Docker's resolver; empty: leave that out")
	flag.StringVar(&o.image, "image", "build/sample.tar", "the image that containers run")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of the resolver there")
	serve := flag.String("serve", "", "be the resolver to be measured, on this address (used by the command itself)")
	flag.Parse()
	if *serve != "" {
		return serveNames(ctx, *serve, o.profile)
	}
	dir, err := os.MkdirTemp("", "bench-dns-")
	if err != nil {
		return err
	}
	o.dir = dir
	defer os.RemoveAll(dir)
	if err := onOneCPU(ctx, o); err != nil || o.meshd == "" {
		return err
	}
	return inContainers(ctx, o)
}

// contender is one resolver under measurement.
type contender struct {
	name string
	// dnsperf runs the load generator against it, and gives what it prints.
	dnsperf func(args ...string) ([]byte, error)
	// pid is the resolver's process if what it costs is to be told; else 0.
	pid    int
	rate   []float64
	median []float64 // ms, at the offered load
	p99    []float64 // ms, likewise
	cost   []float64 // µs of CPU for an answer, at full load
}

// measure takes all contenders in turn, o.rounds times after one to warm up, and
// prints a row for each with its ratio to the last.
func measure(o options, queries string, contenders []*contender) error {
	for round := range o.rounds + 1 {
		for _, c := range contenders {
			// As fast as it can, and then the latencies at a load that all can carry.
			before, err := cpuTime(c.pid)
			if err != nil {
				return err
			}
			full, err := perf(c.dnsperf("-d", queries, "-c", "16", "-q", "200", "-l", strconv.Itoa(o.seconds)))
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			after, err := cpuTime(c.pid)
			if err != nil {
				return err
			}
			light, err := perf(c.dnsperf("-d", queries, "-c", "4", "-q", "20", "-Q", strconv.Itoa(o.offered), "-l", strconv.Itoa(o.seconds), "-v"))
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			cost := float64((after - before).Microseconds()) / full.completed
			fmt.Fprintf(os.Stderr, "round %d: %s %.0f/s, %.1f µs of CPU each; at %d/s median %.3f ms, p99 %.3f ms\n",
				round, c.name, full.rate, cost, o.offered, light.median, light.p99)
			if round > 0 {
				c.rate, c.cost = append(c.rate, full.rate), append(c.cost, cost)
				c.median, c.p99 = append(c.median, light.median), append(c.p99, light.p99)
			}
		}
	}
	last := contenders[len(contenders)-1]
	for _, c := range contenders {
		cost, cheaper := "-", "-"
		if c.pid != 0 {
			cost, cheaper = fmt.Sprintf("%.1f", median(c.cost)), fmt.Sprintf("%.1f", median(ratios(last.cost, c.cost)))
		}
		fmt.Printf("| %s | %.0f (%.0f-%.0f) | %.1f | %s | %s | %.2f | %.2f (%.2f-%.2f) |\n", c.name,
			median(c.rate), slices.Min(c.rate), slices.Max(c.rate), median(ratios(c.rate, last.rate)), cost, cheaper,
			median(c.median), median(c.p99), slices.Min(c.p99), slices.Max(c.p99))
	}
	return nil
}

func ratios(of, to []float64) []float64 {
	out := make([]float64, len(of))
	for i := range out {
		out[i] = of[i] / to[i]
	}
	return out
}

func head(o options) {
	fmt.Printf("| resolver | answers a second (range) | ratio | CPU for an answer, µs | ratio | median at %d/s, ms | p99 (range), ms |\n", o.offered)
	fmt.Println("|---|---|---|---|---|---|---|")
}

// figures are what dnsperf found.
type figures struct {
	rate, completed float64
	median, p99     float64 // ms, if it was asked for each
}

// perf reads dnsperf's report. Every answer must have been a good one.
func perf(out []byte, err error) (figures, error) {
	report := out[max(bytes.Index(out, []byte("Statistics:")), 0):]
	if err != nil {
		return figures{}, fmt.Errorf("dnsperf: %w\n%s", err, report)
	}
	number := func(pattern string) float64 {
		m := regexp.MustCompile(pattern).FindSubmatch(out)
		if m == nil {
			err = fmt.Errorf("no %q in what dnsperf says:\n%s", pattern, report)
			return 0
		}
		f, e := strconv.ParseFloat(string(m[1]), 64)
		err = errors.Join(err, e)
		return f
	}
	f := figures{
		rate:      number(`Queries per second: +([0-9.]+)`),
		completed: number(`Queries completed: +([0-9]+)`),
	}
	var each []float64
	for _, m := range regexp.MustCompile(`(?m)^> NOERROR .* ([0-9.]+)$`).FindAllSubmatch(out, -1) {
		seconds, e := strconv.ParseFloat(string(m[1]), 64)
		each, err = append(each, 1000*seconds), errors.Join(err, e)
	}
	if slices.Sort(each); len(each) > 0 {
		f.median, f.p99 = each[len(each)/2], each[len(each)*99/100]
	}
	if good := number(`NOERROR ([0-9]+)`); err == nil && good < f.completed {
		err = fmt.Errorf("%.0f of %.0f answers are good:\n%s", good, f.completed, report)
	}
	return f, err
}

// cpuTime is what a process has used, the kernel's work for it included.
func cpuTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	process, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	stat, err := process.Stat()
	return time.Duration(stat.CPUTime() * float64(time.Second)), err
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// queries writes what dnsperf asks.
func queries(path string, names []string) error {
	var b bytes.Buffer
	for _, n := range names {
		fmt.Fprintf(&b, "%s A\n", n)
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
