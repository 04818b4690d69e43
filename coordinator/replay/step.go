// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// What is kept of one incident: the first HeadSteps steps, and the segments of the newest
// TailSegments. Together at most MaxSteps values of at most MaxStepBytes each; a dead host
// that is cycled and comes back takes about 30 of them, some 40 KiB.
const (
	SegmentSteps = 16
	HeadSteps    = 2 * SegmentSteps
	TailSegments = 3
	MaxSteps     = HeadSteps + TailSegments*SegmentSteps
	MaxStepBytes = 64 << 10
)

// Version of Step as it is stored.
const Version = 1

// Step is one decision as it was recorded: the value of steps/<host>/<incident>/<nn>.
type Step struct {
	V       int             `json:"v"`
	N       int             `json:"n"`                // of the incident, from 0
	Base    *ha.Record      `json:"base,omitempty"`   // record before the step; absent: what the one before has made of it
	Policy  *ha.Policy      `json:"policy,omitempty"` // absent: as at the one before
	Event   ha.Event        `json:"event"`
	Effects []ha.Effect     `json:"effects,omitempty"` // without the incident that one may carry
	Change  json.RawMessage `json:"change,omitempty"`  // of the record: a JSON merge patch (RFC 7386)
	Left    string          `json:"left,omitempty"`    // why event, effects and change are not here
}

// Recorder turns the steps of a host's incidents into Steps. The zero Recorder begins with
// a base. It belongs to one goroutine.
type Recorder struct {
	incident string
	policy   ha.Policy
	last     map[string]any // record after the last step, nil: the next one needs a base
}

// Break makes the next step hold a base: the last one was not written, or the record has
// changed without one.
func (r *Recorder) Break() { r.last = nil }

// Record is step n of an incident: with policy p the event has made after and effects of
// before. A step that is larger than MaxStepBytes is recorded without its contents. The
// error is one of encoding; then Break was done.
func (r *Recorder) Record(incident string, n int, before ha.Record, ev ha.Event, p ha.Policy, after ha.Record, effects []ha.Effect) (json.RawMessage, error) {
	s := Step{V: Version, N: n, Event: ev, Effects: make([]ha.Effect, len(effects))}
	for i, e := range effects {
		e.Incident = nil
		s.Effects[i] = e
	}
	was := r.last
	fresh := was == nil || r.incident != incident || n%SegmentSteps == 0
	r.last = nil
	if fresh {
		base := bare(before)
		s.Base = &base
		var err error
		if was, err = treeOf(base); err != nil {
			return nil, err
		}
	}
	if fresh || !reflect.DeepEqual(r.policy, p) {
		s.Policy = &p
	}
	is, err := treeOf(bare(after))
	if err != nil {
		return nil, err
	}
	if s.Change, err = json.Marshal(diff(was, is)); err != nil {
		return nil, fmt.Errorf("encode change of step %d: %w", n, err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode step %d: %w", n, err)
	}
	if len(b) > MaxStepBytes {
		return json.Marshal(Step{V: Version, N: n, Event: ha.Event{Kind: ev.Kind, At: ev.At}, Left: fmt.Sprintf("%d bytes, at most %d are kept", len(b), MaxStepBytes)})
	}
	r.incident, r.policy, r.last = incident, p, is
	return b, nil
}

// Dropped are the numbers [from, to) of the steps that go when step n is written; none
// when from equals to.
func Dropped(n int) (from, to int) {
	from = n - TailSegments*SegmentSteps
	if n%SegmentSteps != 0 || from < HeadSteps {
		return 0, 0
	}
	return from, from + SegmentSteps
}

// bare is a record without what no decision looks at: lines of stories but the last (the
// clock is compared with it), and the snapshot of guards, which is in the event.
func bare(r ha.Record) ha.Record {
	if r.Incident == nil {
		return r
	}
	i := *r.Incident
	i.Ledger = i.Ledger[max(0, len(i.Ledger)-1):]
	i.Steps = 0
	if i.Guards != nil {
		g := *i.Guards
		g.Snapshot = nil
		i.Guards = &g
	}
	if i.Action != nil {
		a := *i.Action
		a.Progress.Evidence = a.Progress.Evidence[max(0, len(a.Progress.Evidence)-1):]
		i.Action = &a
	}
	r.Incident = &i
	if r.OrderTxn != nil {
		t := *r.OrderTxn
		t.Progress.Evidence = t.Progress.Evidence[max(0, len(t.Progress.Evidence)-1):]
		r.OrderTxn = &t
	}
	return r
}

// treeOf is a record as JSON sees it.
func treeOf(r ha.Record) (map[string]any, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record of %s: %w", r.Host, err)
	}
	var t map[string]any
	return t, decode(b, &t)
}

// recordOf is the inverse of treeOf.
func recordOf(t map[string]any) (r ha.Record, err error) {
	b, err := json.Marshal(t)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

// diff is the merge patch that makes b of a. Lists are replaced as a whole.
func diff(a, b map[string]any) map[string]any {
	out := map[string]any{}
	for k, was := range a {
		is, still := b[k]
		if !still {
			out[k] = nil
			continue
		}
		wasMap, one := was.(map[string]any)
		isMap, two := is.(map[string]any)
		switch {
		case one && two:
			if d := diff(wasMap, isMap); len(d) > 0 {
				out[k] = d
			}
		case !reflect.DeepEqual(was, is):
			out[k] = is
		}
	}
	for k, is := range b {
		if _, had := a[k]; !had {
			out[k] = is
		}
	}
	return out
}

// merge applies a merge patch; neither argument is changed.
func merge(a, patch map[string]any) map[string]any {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range patch {
		sub, isMap := v.(map[string]any)
		switch {
		case v == nil:
			delete(out, k)
		case isMap:
			was, _ := out[k].(map[string]any)
			out[k] = merge(was, sub)
		default:
			out[k] = v
		}
	}
	return out
}

// at is when a step was decided, UTC.
func (s Step) at() time.Time { return s.Event.At.UTC() }
