package control

import "time"

const (
	// lookPerTask is the pause after a look at a service, for each of its tasks: two
	// to four times what the look takes.
	lookPerTask = 10 * time.Microsecond
	// shortestPause is worth making one.
	shortestPause = 5 * time.Millisecond
)

// Pace spreads the looks at large services: one costs as much as the service has
// tasks, and while thousands of them start or stop each would ask for another. It
// holds when each service may be looked at again.
type Pace map[string]time.Time

// Looked notes a look at a service with so many tasks.
func (p Pace) Looked(service string, tasks int, now time.Time) {
	if d := time.Duration(tasks) * lookPerTask; d >= shortestPause {
		p[service] = now.Add(d)
	}
}

// Due divides services into those to look at now and those that rest; again is
// when the first of these is due, zero without any.
func (p Pace) Due(services map[string]bool, now time.Time) (due map[string]bool, again time.Time) {
	due = make(map[string]bool, len(services))
	for id := range services {
		at, rests := p[id]
		if rests && at.After(now) {
			again = Earlier(again, at)
			continue
		}
		delete(p, id)
		due[id] = true
	}
	return due, again
}
