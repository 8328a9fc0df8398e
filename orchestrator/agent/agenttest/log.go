package agenttest

import (
	"slices"
	"sync"
)

// Log is an ordered list of what happened. Its zero value is empty.
type Log struct {
	mu      sync.Mutex
	entries []string
}

// Add appends an entry.
func (l *Log) Add(entry string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry)
}

// All returns a copy of the entries.
func (l *Log) All() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

// Index is the place of an entry's first occurrence, -1 if there is none.
func (l *Log) Index(entry string) int { return slices.Index(l.All(), entry) }
