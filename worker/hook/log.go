// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"cmp"
	"slices"
	"sync"
)

// Position is a place in the event log: events are ordered by revision and, those of one
// transaction, by id; without an id it is before all of its revision.
type Position struct {
	Revision int64  `json:"revision"`
	ID       string `json:"id,omitempty"`
}

// Compare returns -1, 0 or 1; the later position is the greater one.
func (p Position) Compare(o Position) int {
	return cmp.Or(cmp.Compare(p.Revision, o.Revision), cmp.Compare(p.ID, o.ID))
}

// Log is where in the event log there are events. It is written by whoever follows the log
// and read by all Runners.
type Log struct {
	mu      sync.Mutex
	at      []Position // sorted
	changed chan struct{}
}

// NewLog makes an empty log.
func NewLog() *Log { return &Log{changed: make(chan struct{})} }

// Add notes an event; revisions that rise are cheap.
func (l *Log) Add(p Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i, found := slices.BinarySearchFunc(l.at, p, Position.Compare); !found {
		l.at = slices.Insert(l.at, i, p)
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// Remove forgets an event.
func (l *Log) Remove(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(l.at, func(p Position) bool { return p.ID == id }); i >= 0 { // the oldest go first
		l.at = slices.Delete(l.at, i, i+1)
	}
}

// After is the first event after a position; changed is closed when another one has come.
func (l *Log) After(p Position) (next Position, ok bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.find(p); i < len(l.at) {
		return l.at[i], true, l.changed
	}
	return Position{}, false, l.changed
}

// Behind counts the events after a position.
func (l *Log) Behind(p Position) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.at) - l.find(p)
}

func (l *Log) find(p Position) int {
	i, found := slices.BinarySearchFunc(l.at, p, Position.Compare)
	if found {
		i++
	}
	return i
}
