// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"sync"
	"time"
)

// maxKept bounds the connections kept for all devices together.
const maxKept = 4096

// shelf keeps connections between transactions, at most one per key, without a
// goroutine: what has grown old is closed when another is put beside it.
type shelf struct {
	keep time.Duration

	mu    sync.Mutex
	links map[string]*link
	swept time.Time
	done  bool
}

// take removes and returns the link of a key, nil when there is none young enough.
func (s *shelf) take(key string) *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.links[key]
	delete(s.links, key)
	if l != nil && time.Since(l.last) > s.keep {
		l.close(false)
		return nil
	}
	return l
}

// put keeps a link, or closes it.
func (s *shelf) put(key string, l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.swept) > s.keep/4 {
		s.swept = now
		for k, o := range s.links {
			if now.Sub(o.last) > s.keep {
				o.close(false)
				delete(s.links, k)
			}
		}
	}
	old := s.links[key]
	if s.done || s.keep <= 0 || old == nil && len(s.links) >= maxKept {
		l.close(false)
		return
	}
	if old != nil {
		old.close(false)
	}
	if s.links == nil {
		s.links = map[string]*link{}
	}
	s.links[key] = l
}

// close ends all links, and those put later at once.
func (s *shelf) close() {
	s.mu.Lock()
	s.done = true
	s.mu.Unlock()
	s.empty()
}

// empty ends all links.
func (s *shelf) empty() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		l.close(false)
	}
	clear(s.links)
}
