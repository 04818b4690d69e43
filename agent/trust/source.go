// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// checkEvery is how often handshakes look at the files.
const checkEvery = time.Second

// Config says where certificates come from.
type Config struct {
	Files, Fields Files
	// Want is whose certificate it must be: with an empty ID any of the role, with an empty
	// role anybody's, as for an etcd that knows other names.
	Want   Identity
	Logger *slog.Logger     // nil discards
	Now    func() time.Time // nil is time.Now
}

func (c *Config) now() time.Time { return c.Now() }

// Source gives the certificates as the files have them. It is safe for concurrent use.
type Source struct {
	c       Config
	log     *slog.Logger
	words   *rate.Limiter // of refused handshakes
	unsaid  atomic.Int64  // refused handshakes that were not logged
	present atomic.Pointer[material]
	known   atomic.Pointer[Known]   // nil: nothing beside the files
	tickets atomic.Pointer[tickets] // of the certificate in use
	fixed   bool                    // made without files of its own, see OpenCA

	mu      sync.Mutex
	seen    mark
	checked time.Time
	bad     error // why the files as they are now are not taken
}

// Open reads the files. An error names the field, the file and what is allowed; a
// certificate that is out of date is none, see State.
func Open(c Config) (*Source, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Source{c: c, log: c.Logger, words: rate.NewLimiter(1, 10)}
	s.seen, s.checked = c.Files.mark(), c.now()
	m, err := c.load()
	if err != nil {
		return nil, err
	}
	s.present.Store(m)
	s.tickets.Store(newTickets())
	if err := s.outOfDate(m); err != nil {
		s.log.Error("certificate cannot be used now, waiting for another", "certificate", subject(m.leaf), "file", c.Files.Cert, "cause", err)
	}
	return s, nil
}

// material is what a handshake uses. Only one of many concurrent ones looks at the files.
func (s *Source) material() *material {
	if !s.fixed && s.mu.TryLock() {
		if d := s.c.now().Sub(s.checked); d >= checkEvery || d < 0 {
			s.check()
		}
		s.mu.Unlock()
	}
	return s.present.Load()
}

// check takes the files if they have changed. s.mu is held.
func (s *Source) check() {
	s.checked = s.c.now()
	now := s.c.Files.mark()
	// What could not be used is tried again: it may have been half written.
	if now == s.seen && s.bad == nil {
		return
	}
	s.seen = now
	m, err := s.c.load()
	old := s.present.Load()
	if err == nil {
		// Out of date is better than nothing, but not better than what works.
		if late := s.outOfDate(m); late != nil && s.outOfDate(old) == nil {
			err = fmt.Errorf("%s %s: %w", s.c.Fields.Cert, s.c.Files.Cert, late)
		}
	}
	if err != nil {
		if s.bad == nil || s.bad.Error() != err.Error() {
			s.log.Error("new certificate files are not usable, the old ones stay", "certificate", subject(old.leaf), "until", old.leaf.NotAfter, "cause", err)
		}
		s.bad = err
		return
	}
	s.bad = nil
	s.present.Store(m)
	s.tickets.Store(newTickets()) // those of the old one would say that it is still in use
	if !m.leaf.Equal(old.leaf) {
		s.log.Info("certificate renewed", "certificate", subject(m.leaf), "until", m.leaf.NotAfter)
	}
}

func (s *Source) outOfDate(m *material) error { return dates(m.leaf, s.c.now()) }

// State is what there is to say of a participant's own certificate.
type State struct {
	Identity            Identity // zero where none is asked for
	NotBefore, NotAfter time.Time
	CANotAfter          time.Time // of the authority that ends first
	// Err is why the files as they are now are not taken; the ones before them are in use.
	Err error
}

// Expiring says whether renewal is late: less than a fifth of the certificate's time is
// left, and less than two weeks.
func (s State) Expiring(now time.Time) bool {
	left := s.NotAfter.Sub(now)
	return left < s.NotAfter.Sub(s.NotBefore)/5 && left < 14*24*time.Hour
}

// State looks at the files now and tells.
func (s *Source) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check()
	m := s.present.Load()
	return State{Identity: m.id, NotBefore: m.leaf.NotBefore, NotAfter: m.leaf.NotAfter, CANotAfter: m.caEnd, Err: s.bad}
}
