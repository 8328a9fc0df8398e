// Package schedule reads the labels by which a job runs by the clock, and finds
// the times at which it is due. It is pure: the caller has the clock.
//
// | label                     | value                                               |
// |---------------------------|-----------------------------------------------------|
// | mesh.schedule             | five fields of cron(8), or @daily, @every 1h and so on |
// | mesh.schedule.timezone    | a name of the IANA database; default UTC            |
// | mesh.schedule.concurrency | forbid (default), allow or replace                  |
// | mesh.schedule.missed      | run (default) or skip                               |
// | mesh.schedule.history     | how many past runs keep their tasks                 |
package schedule

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Label has the times; those of its options begin with it and a dot.
const Label = "mesh.schedule"

const (
	labelTimezone    = Label + ".timezone"
	labelConcurrency = Label + ".concurrency"
	labelMissed      = Label + ".missed"
	labelHistory     = Label + ".history"
)

// Concurrency says what happens when a run is due while the last one is at work.
type Concurrency string

// The kinds of concurrency.
const (
	// Forbid leaves the new run out.
	Forbid Concurrency = "forbid"
	// Allow lets both go on.
	Allow Concurrency = "allow"
	// Replace stops the tasks of the last run.
	Replace Concurrency = "replace"
)

// maxHistory bounds mesh.schedule.history.
const maxHistory = 1000

// Late is how long after its time a run counts as missed.
const Late = time.Minute

// Plan is what the labels of a job say.
type Plan struct {
	Concurrency Concurrency
	// SkipMissed: a run that could not begin in time is left out. Otherwise one run
	// makes up for all that were missed.
	SkipMissed bool
	// History is how many past runs keep their tasks; negative if nothing is said.
	History int

	times cron.Schedule
}

// Of reads a service's labels; nil if they ask for no schedule. Errors name the
// label.
func Of(labels map[string]string) (*Plan, error) {
	if err := unknown(labels); err != nil {
		return nil, err
	}
	text, ok := labels[Label]
	if !ok {
		for _, l := range []string{labelTimezone, labelConcurrency, labelMissed, labelHistory} {
			if _, found := labels[l]; found {
				return nil, fmt.Errorf("label %s needs label %s", l, Label)
			}
		}
		return nil, nil
	}
	p := &Plan{Concurrency: Forbid, History: -1}
	var err error
	if p.times, err = parse(text, labels[labelTimezone]); err != nil {
		return nil, err
	}
	switch c := Concurrency(labels[labelConcurrency]); c {
	case "":
	case Forbid, Allow, Replace:
		p.Concurrency = c
	default:
		return nil, fmt.Errorf("label %s: %q is none of forbid, allow, replace", labelConcurrency, c)
	}
	switch m := labels[labelMissed]; m {
	case "", "run":
	case "skip":
		p.SkipMissed = true
	default:
		return nil, fmt.Errorf("label %s: %q is neither run nor skip", labelMissed, m)
	}
	if h, found := labels[labelHistory]; found {
		if p.History, err = strconv.Atoi(h); err != nil || p.History < 0 || p.History > maxHistory {
			return nil, fmt.Errorf("label %s: %q is no number from 0 to %d", labelHistory, h, maxHistory)
		}
	}
	return p, nil
}

func unknown(labels map[string]string) error {
	known := []string{labelTimezone, labelConcurrency, labelMissed, labelHistory}
	for l := range labels {
		if strings.HasPrefix(l, Label+".") && !slices.Contains(known, l) {
			return fmt.Errorf("label %s is not known; there are %s and %s", l, Label, strings.Join(known, ", "))
		}
	}
	return nil
}

// parse reads the times. The time zone may stand before them, as in crontab files
// (CRON_TZ=Europe/Berlin 0 5 * * *); a machine's own one never counts, since the
// managers' may differ.
func parse(text, zone string) (cron.Schedule, error) {
	spec := strings.TrimSpace(text)
	for _, prefix := range []string{"CRON_TZ=", "TZ="} {
		rest, found := strings.CutPrefix(spec, prefix)
		if !found {
			continue
		}
		name, fields, _ := strings.Cut(rest, " ")
		if zone != "" && zone != name {
			return nil, fmt.Errorf("label %s names time zone %s, label %s %s", Label, name, labelTimezone, zone)
		}
		zone, spec = name, strings.TrimSpace(fields)
		break
	}
	if zone == "" {
		zone = "UTC"
	}
	if _, err := time.LoadLocation(zone); err != nil || zone == "Local" || strings.ContainsAny(zone, " \t") {
		return nil, fmt.Errorf("label %s: there is no time zone %q", Label, zone)
	}
	if spec == "" || strings.Contains(spec, "TZ=") {
		return nil, fmt.Errorf("label %s: %q gives no times; five fields are needed, like \"0 5 * * *\"", Label, text)
	}
	times, err := cron.ParseStandard("CRON_TZ=" + zone + " " + spec)
	if err != nil {
		return nil, fmt.Errorf("label %s: %q: %w", Label, text, err)
	}
	if times.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() { // a leap year
		return nil, fmt.Errorf("label %s: %q never comes", Label, text)
	}
	return times, nil
}

// maxMissed bounds how many missed times are counted one by one.
const maxMissed = 1000

// Due returns the last time after since that has come, zero if none has, and the
// one after it. Both are zero if the schedule has come to its end.
func (p *Plan) Due(since, now time.Time) (due, next time.Time) {
	next = p.times.Next(since)
	for range maxMissed {
		if next.IsZero() || next.After(now) {
			return due, next
		}
		due, next = next, p.times.Next(next)
	}
	return now, p.times.Next(now) // the schedule stood still for long: which time it was matters to nobody
}
