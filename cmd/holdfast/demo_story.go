// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	storyPoll      = 100 * time.Millisecond
	eventReleased  = "ha.safe-to-restart"
	storyColumn    = 7
	storyPatience  = 5 * time.Second // for one answer while a worker may be busy
	storyTextWidth = 400
)

// errStoryEnd ends a watch.
var errStoryEnd = errors.New("the story is told")

// story prints what happens to one host, each thing once and in the order of time, with
// seconds since it broke.
type story struct {
	out      io.Writer
	host     string
	began    time.Time
	told     map[string]bool
	pending  []storyLine
	released bool // its instances were announced as safe to restart
}

type storyLine struct {
	at         time.Time
	what, text string
}

func newStory(out io.Writer, host string, began time.Time) *story {
	return &story{out: out, host: host, began: began, told: map[string]bool{}}
}

// say prints a line of the teller's own.
func (s *story) say(what, format string, args ...any) {
	s.add(time.Now(), what, fmt.Sprintf(format, args...))
	s.flush()
}

func (s *story) add(at time.Time, what, text string) {
	if r := []rune(text); len(r) > storyTextWidth {
		text = string(r[:storyTextWidth]) + "…"
	}
	s.pending = append(s.pending, storyLine{at, what, text})
}

func (s *story) flush() {
	slices.SortStableFunc(s.pending, func(a, b storyLine) int { return a.at.Compare(b.at) })
	for _, l := range s.pending {
		fmt.Fprintf(s.out, "%+6.1fs  %-*s  %s\n", l.at.Sub(s.began).Seconds(), storyColumn, l.what, l.text)
	}
	s.pending = s.pending[:0]
}

// follow tells the story from the event log and the incident's ledger until done says
// that the host is where it should be, and returns the host then.
func (s *story) follow(limit context.Context, c *v1.Client, done func(v1.Host) bool) (v1.Host, error) {
	work, ctx := errgroup.WithContext(limit)
	events := make(chan v1.Event)
	work.Go(func() error {
		return c.WatchEvents(ctx, v1.EventQuery{Host: s.host, Since: s.began}, func(ev v1.Event) error {
			select {
			case events <- ev:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
	var last v1.Host
	work.Go(func() error {
		tick := time.NewTicker(storyPoll)
		defer tick.Stop()
		for {
			select {
			case ev := <-events:
				s.event(ev)
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
			h, err := s.look(ctx, c)
			if err != nil {
				continue // the owner may be changing; the deadline of ctx bounds it
			}
			last = h
			if h.Status.State == "FAILED" || h.Status.State == "FENCED" {
				return fmt.Errorf("%s ended %s: %s", s.host, h.Status.State, h.Status.Reason)
			}
			if done(h) {
				return errStoryEnd
			}
		}
	})
	err := work.Wait()
	if limit.Err() != nil {
		return last, fmt.Errorf("%w; it was last seen %s: %s", context.Cause(limit), orNone(last.Status.State), last.Status.Reason)
	}
	if !errors.Is(err, errStoryEnd) {
		return last, err
	}
	_, err = s.look(context.WithoutCancel(ctx), c) // what was written with the last change
	return last, err
}

// look tells what is new in the incident and returns the host.
func (s *story) look(ctx context.Context, c *v1.Client) (v1.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, storyPatience)
	defer cancel()
	h, err := c.Host(ctx, s.host)
	if err != nil {
		return v1.Host{}, err
	}
	all, err := c.Incidents(ctx, s.host)
	if err != nil {
		return v1.Host{}, err
	}
	for i := len(all) - 1; i >= 0; i-- { // oldest first
		for _, entry := range all[i].Ledger {
			if !s.first(entry.At.String() + entry.What + entry.Text) {
				continue
			}
			s.add(entry.At, entry.What, entry.Text)
			if entry.What == "guard" {
				for _, g := range all[i].Guards {
					s.add(entry.At, "", strings.TrimRight(fmt.Sprintf("  %-9s %s: %s", g.Guard, g.Verdict, g.Reason), " "))
				}
			}
		}
	}
	s.flush()
	return h, nil
}

// event tells what the ledger does not: it has every change of the state.
func (s *story) event(ev v1.Event) {
	if ev.Type == eventReleased {
		s.released = true
	}
	if ev.Data["to"] != "" || !s.first(ev.ID) {
		return
	}
	text := ev.Message
	if len(ev.Instances) > 0 {
		text += " [" + strings.Join(ev.Instances, ", ") + "]"
	}
	s.add(ev.At, "event", ev.Type+": "+text)
}

func (s *story) first(key string) bool {
	if s.told[key] {
		return false
	}
	s.told[key] = true
	return true
}
