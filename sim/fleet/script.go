// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// Settle is how long a fleet runs before the first line of a script: long enough that
// every host is AVAILABLE and its neighbours have witnessed it.
const Settle = 2 * time.Minute

// rest is how long it runs after the last line of a script without an end.
const rest = 10 * time.Minute

// Line is one line of a script: when, and what happens then.
type Line struct {
	No   int
	Text string
	at   time.Duration // since the script began
	on   *trigger
	verb verb
	args []string
}

// trigger waits for a host to come into a state, or for a packet to it.
type trigger struct{ host, state, packet string }

// waiting is a line that waits for its trigger.
type waiting struct {
	trigger
	delay time.Duration
	do    func()
	fired bool
}

// Script is what happens to a fleet.
type Script struct {
	Lines []*Line
	end   time.Duration
}

// ParseScript reads a script: one line each, "<when> <what>". When is a time since the
// beginning (90s), since the line before (+5s), or a state or a packet of a host
// (h3=FENCING, h3:off), with a delay where that is wanted (h3=FENCING+2s). What is one of
// Verbs. Lines that are empty or begin with # say nothing. Errors name line and word.
func ParseScript(text string) (*Script, error) {
	s := &Script{}
	var errs []error
	var last *Line
	for no, raw := range strings.Split(text, "\n") {
		words := strings.Fields(raw)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("script line %d: "+format, append([]any{no + 1}, args...)...))
		}
		if len(words) < 2 {
			bad("%q, wanted is <when> <what>", raw)
			continue
		}
		l := &Line{No: no + 1, Text: strings.Join(words, " "), args: words[2:]}
		if err := l.when(words[0], last); err != nil {
			bad("%w", err)
		}
		if words[1] == "end" {
			s.end = l.at
			continue
		}
		v, ok := verbs[words[1]]
		if !ok {
			bad("%q is no verb, allowed are %s", words[1], strings.Join(verbNames(), ", "))
			continue
		}
		l.verb = v
		if n := len(l.args); n < v.least || v.most >= 0 && n > v.most {
			bad("%s: wanted is %s %s", words[1], words[1], v.Usage)
			continue
		}
		s.Lines = append(s.Lines, l)
		last = l
	}
	if s.end == 0 {
		for _, l := range s.Lines {
			s.end = max(s.end, l.at)
		}
		s.end += rest
	}
	return s, errors.Join(errs...)
}

func (l *Line) when(word string, last *Line) error {
	what, delay, delayed := strings.Cut(word, "+")
	var err error
	if delayed {
		if l.at, err = time.ParseDuration(delay); err != nil {
			return fmt.Errorf("when %q: after + a duration is wanted, such as 5s", word)
		}
	}
	switch host, state, ok := strings.Cut(what, "="); {
	case ok:
		l.on = &trigger{host: host, state: state}
		return nil
	case strings.Contains(what, ":"):
		host, packet, _ := strings.Cut(what, ":")
		l.on = &trigger{host: host, packet: packet}
		return nil
	case what == "" && last != nil:
		l.on = last.on
		l.at += last.at
		return nil
	case what == "":
		return nil
	}
	if l.at, err = time.ParseDuration(what); err != nil {
		return fmt.Errorf("when %q, allowed are 90s, +5s, h3=FENCING, h3:off, h3=FENCING+5s", word)
	}
	return nil
}

// Play runs the whole script, from a fleet that has settled to its end. Errors name the
// line and what it asks for that this fleet does not have; nothing has happened then.
func (f *Fleet) Play(s *Script) error {
	var errs []error
	do := make([]func(), len(s.Lines))
	for i, l := range s.Lines {
		run, err := l.verb.prepare(f, l.args)
		if err == nil && l.on != nil && f.byID[l.on.host] == nil {
			err = fmt.Errorf("host %q is not in the topology", l.on.host)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("script line %d: %w", l.No, err))
			continue
		}
		do[i] = func() {
			_, text, _ := strings.Cut(l.Text, " ")
			f.log.add(Entry{At: f.now.Sub(Start), Kind: "script", Text: text})
			run()
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	f.Run(Start)
	for i, l := range s.Lines {
		if l.on == nil {
			f.at(Start.Add(l.at), do[i])
			continue
		}
		run := do[i]
		f.waits = append(f.waits, &waiting{trigger: *l.on, delay: l.at, do: func() {
			if !f.healed {
				run()
			}
		}})
	}
	f.Run(Start.Add(s.end))
	return nil
}

// triggered fires what waits for the state a host has come to.
func (f *Fleet) triggered(h *host) {
	for _, w := range f.waits {
		if !w.fired && w.host == h.ID && w.state != "" && ha.State(w.state) == h.rec.State {
			w.fired = true
			f.after(w.delay, w.do)
		}
	}
}

// triggeredBy fires what waits for a packet to a host.
func (f *Fleet) triggeredBy(h *host, packet string) {
	for _, w := range f.waits {
		if !w.fired && w.host == h.ID && w.packet == packet {
			w.fired = true
			f.after(w.delay, w.do)
		}
	}
}
