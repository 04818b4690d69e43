// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"
)

// Cause says why the power state changed.
type Cause string

const (
	External    Cause = "external"     // nobody ordered it through us
	Ours        Cause = "ours"         // this engine, or an operator through it
	LostContact Cause = "lost contact" // to UNKNOWN
)

// Transition is a debounced change of the host's power state: an event (power.md §1).
type Transition struct {
	At    time.Time `json:"at"`
	From  State     `json:"from"`
	To    State     `json:"to"`
	First time.Time `json:"first"` // first of the equal readings behind it
	Cause Cause     `json:"cause"`
	Why   string    `json:"why"`          // for people
	Told  bool      `json:"told"`         // some device can be read at all
	By    []string  `json:"by,omitempty"` // devices whose readings it rests on
}

// ReadLimits are the figures of the machine (power.md §6.3).
type ReadLimits struct {
	FailsToUnknown int           `json:"failsToUnknown"` // 3; a final kind needs one
	ConfirmAfter   time.Duration `json:"confirmAfter"`   // 2s between the equal readings behind ON<->OFF
	BackOff        time.Duration `json:"backOff"`        // most time between readings of a device that does not answer; 0: it is read as often as others
}

// WithDefaults fills every field that is not positive.
func (l ReadLimits) WithDefaults() ReadLimits {
	if l.FailsToUnknown <= 0 {
		l.FailsToUnknown = 3
	}
	if l.ConfirmAfter <= 0 {
		l.ConfirmAfter = 2 * time.Second
	}
	return l
}

// ReadingEvent is one answer, or failure, of one device.
type ReadingEvent struct {
	At      time.Time
	Device  string
	Reading Reading
	Err     Kind
	Detail  string
	Ordered bool // a change now is ours, or an operator's through us
}

// Machine is the power machine of one host: what each device last said, and the state of
// the chassis that follows. The zero Machine knows no device and is UNKNOWN; Configure
// gives it the ladder.
type Machine struct {
	V      int            `json:"v"`
	State  State          `json:"state"`
	Since  time.Time      `json:"since,omitzero"`
	Last   Transition     `json:"last,omitzero"`
	Levels []LevelState   `json:"levels,omitempty"`
	Counts map[string]int `json:"counts,omitempty"` // transitions so far, by "ON->OFF"
}

// LevelState is one level of the ladder and the state its devices agree on.
type LevelState struct {
	Level   int           `json:"level"`
	Any     bool          `json:"any,omitempty"` // its devices are paths to one thing: one that answers is enough
	State   State         `json:"state"`
	Since   time.Time     `json:"since,omitzero"`
	Devices []DeviceState `json:"devices"`
}

// DeviceState is what is known through one device.
type DeviceState struct {
	Name   string    `json:"name"`
	State  State     `json:"state"` // debounced
	Since  time.Time `json:"since,omitzero"`
	First  time.Time `json:"first,omitzero"`   // first of the equal readings behind State
	Last   Reading   `json:"last,omitzero"`    // last good reading
	Tried  time.Time `json:"tried,omitzero"`   // last attempt
	Next   State     `json:"next,omitempty"`   // read once, to be confirmed
	NextAt time.Time `json:"nextAt,omitzero"`  // when it was first read
	Fails  int       `json:"fails,omitempty"`  // failed reads in a row
	Err    Kind      `json:"err,omitempty"`    // of the last attempt
	Detail string    `json:"detail,omitempty"` // of the last attempt
}

// Configure takes the host's ladder over: devices that stay keep what is known of them,
// new ones start UNKNOWN, others are forgotten. It is idempotent and raises no
// transition; the next reading does.
func (m Machine) Configure(ladder []Level) Machine {
	old := map[string]DeviceState{}
	for _, lv := range m.Levels {
		for _, d := range lv.Devices {
			old[d.Name] = d
		}
	}
	was := m.Levels
	ladder = slices.DeleteFunc(slices.Clone(ladder), func(lv Level) bool { return lv.Human }) // nobody to read
	m.V, m.Levels = 1, make([]LevelState, len(ladder))
	for i, lv := range ladder {
		m.Levels[i] = LevelState{Level: lv.N, Any: !lv.All, Devices: make([]DeviceState, len(lv.Devices))}
		for j, name := range lv.Devices {
			d, ok := old[name]
			if !ok {
				d = DeviceState{Name: name}
			}
			m.Levels[i].Devices[j] = d
		}
		m.Levels[i].State = m.Levels[i].combine()
		if k := slices.IndexFunc(was, func(l LevelState) bool { return l.Level == lv.N }); k >= 0 {
			m.Levels[i].Since = was[k].Since
		}
	}
	if len(m.Levels) == 0 { // nothing will be read that could say so
		m.State = Unknown
	}
	return m
}

// Device returns what is known through a device.
func (m Machine) Device(name string) (DeviceState, bool) {
	for _, lv := range m.Levels {
		for _, d := range lv.Devices {
			if d.Name == name {
				return d, true
			}
		}
	}
	return DeviceState{}, false
}

// with changes one device in a copy.
func (m Machine) with(device string, change func(*DeviceState)) Machine {
	for i, lv := range m.Levels {
		j := slices.IndexFunc(lv.Devices, func(d DeviceState) bool { return d.Name == device })
		if j < 0 {
			continue
		}
		m.Levels = slices.Clone(m.Levels)
		m.Levels[i].Devices = slices.Clone(lv.Devices)
		change(&m.Levels[i].Devices[j])
		return m
	}
	return m
}

// Step feeds one reading and returns the machine moved on, with the host's transition if
// it made one. A device that is not configured changes nothing. It is pure and total.
func (m Machine) Step(ev ReadingEvent, l ReadLimits) (Machine, []Transition) {
	if _, ok := m.Device(ev.Device); !ok || ev.Err.ours() {
		return m, nil
	}
	l = l.WithDefaults()
	m = m.with(ev.Device, func(d *DeviceState) { d.take(ev, l) })
	for i := range m.Levels {
		lv := &m.Levels[i]
		if s := lv.combine(); s != lv.State || lv.Since.IsZero() {
			lv.State, lv.Since = s, ev.At
		}
	}
	to, by := m.chassis()
	if to == m.State {
		return m, nil
	}
	t := Transition{At: ev.At, From: m.State, To: to, First: ev.At, Told: m.Told()}
	switch {
	case to == Unknown:
		t.Cause, t.Why = LostContact, m.complaint()
	case ev.Ordered:
		t.Cause, t.Why = Ours, "as ordered"
	default:
		t.Cause, t.Why = External, "nobody ordered it here"
	}
	if to != Unknown {
		t.First = time.Time{}
		for _, d := range by.Devices {
			if d.State == to {
				t.First, t.By = later(t.First, d.First), append(t.By, d.Name)
			}
		}
		t.Why = fmt.Sprintf("level %d reads %s: %s", by.Level, to, t.Why)
	}
	counts := map[string]int{}
	maps.Copy(counts, m.Counts)
	counts[t.From.String()+"->"+t.To.String()]++
	m.State, m.Since, m.Last, m.Counts = to, ev.At, t, counts
	return m, []Transition{t}
}

// take debounces one device: two equal readings change it, outside UNKNOWN at least
// ConfirmAfter apart; failures make it UNKNOWN. Transitional and fault readings, and an
// OFF that is not authentic, confirm nothing.
func (d *DeviceState) take(ev ReadingEvent, l ReadLimits) {
	d.Tried, d.Err, d.Detail = ev.At, ev.Err, ev.Detail
	g := ev.Reading
	if ev.Err == NoError && !g.Transitional && !g.Fault && (g.State == Unknown || g.State == Off && !g.Authentic) {
		d.Err, d.Detail = ProtocolViolation, "an answer without a power state that can be trusted"
	}
	if d.Err != NoError {
		d.Fails++
		d.Next, d.NextAt = Unknown, time.Time{}
		if d.Since.IsZero() {
			d.Since = ev.At
		}
		if (d.Fails >= l.FailsToUnknown || d.Err.Final()) && d.State != Unknown {
			d.State, d.Since, d.First = Unknown, ev.At, ev.At
		}
		return
	}
	d.Fails, d.Last = 0, g
	if d.Last.At.IsZero() || d.Last.At.After(ev.At) {
		d.Last.At = ev.At
	}
	switch s := g.State; {
	case g.Transitional || g.Fault || s == d.State:
		d.Next, d.NextAt = Unknown, time.Time{}
	case s != d.Next || d.NextAt.After(ev.At): // read for the first time, or by a clock that went back
		d.Next, d.NextAt = s, ev.At
	case d.State == Unknown || ev.At.Sub(d.NextAt) >= l.ConfirmAfter:
		d.State, d.Since, d.First = s, ev.At, d.NextAt
		d.Next, d.NextAt = Unknown, time.Time{}
	}
}

// Combine is the rule of devices that feed one host: any ON is ON, OFF beside UNKNOWN is
// UNKNOWN, all OFF is OFF (power.md §2, oVirt). Of several paths to one thing (any) those
// that do not answer say nothing.
func Combine(any bool, states ...State) State {
	unknown, off := false, false
	for _, s := range states {
		switch s {
		case On:
			return On
		case Off:
			off = true
		default:
			unknown = true
		}
	}
	if off && (any || !unknown) {
		return Off
	}
	return Unknown
}

func (lv LevelState) combine() State {
	states := make([]State, len(lv.Devices))
	for i, d := range lv.Devices {
		states[i] = d.State
	}
	return Combine(lv.Any, states...)
}

// chassis is the state of the first level that knows one: an outlet that is ON says less
// than a BMC that reads OFF, and anything says more than silence.
func (m Machine) chassis() (State, LevelState) {
	for _, lv := range m.Levels {
		if lv.State != Unknown {
			return lv.State, lv
		}
	}
	return Unknown, LevelState{}
}

// complaint says why no level can be read.
func (m Machine) complaint() string {
	var s []string
	for _, lv := range m.Levels {
		for _, d := range lv.Devices {
			if d.Err == NoError {
				continue
			}
			text := fmt.Sprintf("%s: %s", d.Name, d.Err)
			if d.Detail != "" {
				text += " (" + d.Detail + ")"
			}
			if d.Fails > 1 {
				text += fmt.Sprintf(", %d times", d.Fails)
			}
			s = append(s, text)
		}
	}
	return strings.Join(s, ", ")
}

// Told reports whether any device can be read at all: it answered last time, or has not
// failed often enough yet to be UNKNOWN.
func (m Machine) Told() bool {
	for _, lv := range m.Levels {
		for _, d := range lv.Devices {
			if d.State != Unknown || !d.Tried.IsZero() && d.Err == NoError {
				return true
			}
		}
	}
	return false
}

// Settled is the machine without what every single reading changes. Two machines with
// equal Settled need not be written twice: an idle host costs no write (leases.md §8).
func (m Machine) Settled() Machine {
	m.Levels = slices.Clone(m.Levels)
	for i, lv := range m.Levels {
		m.Levels[i].Devices = slices.Clone(lv.Devices)
		for j, d := range lv.Devices {
			s := DeviceState{Name: d.Name, State: d.State, Since: d.Since, First: d.First}
			if d.State == Unknown {
				s.Err = d.Err
			}
			m.Levels[i].Devices[j] = s
		}
	}
	return m
}

// NextRead is when the next of the host's devices should be read: see Due. Without
// devices there is nothing to do, and it is looked again after every.
func (m Machine) NextRead(now time.Time, every time.Duration, l ReadLimits) time.Time {
	next := now.Add(every + every/10)
	for _, lv := range m.Levels {
		for _, d := range lv.Devices {
			next = earlier(next, m.Due(d.Name, now, every, l))
		}
	}
	return later(next, now)
}

// Due is when a device should be read again: at once if it never was, soon if a change
// or a loss of contact waits to be confirmed, else after every ± 10 %, spread so that a
// fleet does not beat in step. One that does not answer is asked less and less often, up
// to l.BackOff: half as long as it has been silent (power.md §6.3).
func (m Machine) Due(device string, now time.Time, every time.Duration, l ReadLimits) time.Time {
	d, ok := m.Device(device)
	if !ok || d.Tried.IsZero() {
		return now
	}
	h := fnv.New64a()
	fmt.Fprint(h, d.Name, d.Tried.UnixNano())
	wait := every
	if d.State == Unknown && d.Fails > 0 && !d.Since.IsZero() {
		wait = max(every, min(l.BackOff, d.Tried.Sub(d.Since)/2))
	}
	spread := time.Duration(h.Sum64()%2001) - 1000 // of 10,000
	wait += wait / 10000 * spread
	if d.Next != Unknown || d.Fails > 0 && d.State != Unknown { // find out soon what is so
		wait = min(wait, l.WithDefaults().ConfirmAfter)
	}
	return later(d.Tried.Add(wait), now)
}
