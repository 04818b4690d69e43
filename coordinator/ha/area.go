// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
)

// AreaRecord is the incident of an area (a rack, switch, PDU, pool, or a cluster, pod or
// zone): the last storm it was in. It is the value of areas/<area>; members' own pages are
// folded into it (ha.md §6, guard common cause: one area incident, one page).
type AreaRecord struct {
	V       int          `json:"v"`
	Area    string       `json:"area"` // rack/z1/7, pool/nfs1, cluster/z1/p1/c1
	Open    bool         `json:"open,omitempty"`
	Began   time.Time    `json:"began,omitzero"`
	Ended   time.Time    `json:"ended,omitzero"`
	Why     string       `json:"why,omitempty"`
	Under   string       `json:"under,omitempty"` // another area in a storm that explains this one
	Hosts   int          `json:"hosts,omitempty"` // of the area, that count
	Members []AreaMember `json:"members,omitempty"`
	More    int          `json:"more,omitempty"`    // members beyond those that are listed
	Paged   time.Time    `json:"paged,omitzero"`    // when somebody was woken up for it
	PageAt  time.Time    `json:"pageAt,omitzero"`   // zero: no page is due
	Returns int          `json:"returns,omitempty"` // times it began again within the cooldown
}

// AreaMember is a host that was part of the storm.
type AreaMember struct {
	Host  string    `json:"host"`
	Since time.Time `json:"since"`         // when it was counted first
	Left  time.Time `json:"left,omitzero"` // when it was well again, or proven off
}

// maxMembers bounds the members that are kept with an area.
const maxMembers = 200

// AreaLimits are the settings of areas.
type AreaLimits struct {
	Settle   time.Duration // how long a storm is looked at before somebody is woken up: by then all that fell together has
	Cooldown time.Duration // guard.storm.cooldown
}

// StepArea returns the area's next record and the events of a change. It is pure. Look is
// what the census says of the area; nil: it is in no storm. A storm that begins again
// within the cooldown is the same one: it pages nobody anew.
func StepArea(r AreaRecord, look *guard.Look, at time.Time, l AreaLimits) (AreaRecord, []Effect) {
	at = utc(at)
	next := r
	var out []Effect
	tell := func(kind string, severity Severity, format string, args ...any) {
		out = append(out, Effect{Kind: Announce, Type: kind, Severity: severity, Reason: fmt.Sprintf(format, args...)})
	}
	// Who wrote it may have had another clock: no time of the record is further away than
	// it was meant (ha.md §7).
	if r.Ended.After(at.Add(clockSlack)) {
		r.Ended, next.Ended = at, at
	}
	next.PageAt = clamp(next.PageAt, at, l.Settle)
	switch {
	case look == nil && !r.Open:
		return next, nil
	case look == nil:
		next.Open, next.Ended, next.PageAt, next.Under = false, at, time.Time{}, ""
		next.Members = memberNow(r.Members, nil, at)
		tell(stormEnded, Info, "storm in %s ended after %s; it is left alone for another %s", r.Area, span(at.Sub(r.Began)), span(l.Cooldown))
		return next, out
	case !r.Open && !r.Ended.IsZero() && at.Sub(r.Ended) < l.Cooldown:
		next.Open, next.Ended, next.Returns = true, time.Time{}, r.Returns+1
		if r.Paged.IsZero() {
			next.PageAt = at.Add(l.Settle)
		}
		tell(stormBegun, Warning, "storm in %s goes on: %s%s", r.Area, look.Why, hosts(look.Hit))
	case !r.Open:
		next = AreaRecord{V: Version, Area: r.Area, Open: true, Began: at, PageAt: at.Add(l.Settle)}
		tell(stormBegun, Warning, "storm in %s: %s%s", r.Area, look.Why, hosts(look.Hit))
	}
	// How many are hit is written down when it grows: the words follow that.
	grown := memberNow(next.Members, look.Hit, at)
	if !slices.Equal(grown, next.Members) || next.Why == "" {
		next.Members, next.Why, next.Hosts = grown, look.Why, look.Hosts
		next.More = max(0, len(look.Hit)-maxMembers)
	}
	if r.Open && next.Under != "" && look.Under == "" && next.Paged.IsZero() {
		next.PageAt = at.Add(l.Settle) // what explained it went first, and it may follow at once
	}
	next.Under = look.Under
	if past(next.PageAt, at) && next.Under == "" {
		next.PageAt, next.Paged = time.Time{}, at
		tell(stormPage, Page, "storm in %s: %s%s; nothing is switched off there: look at what they share", r.Area, look.Why, hosts(look.Hit))
	}
	return next, out
}

// Events of areas.
const (
	stormBegun = "area.storm-begun"
	stormEnded = "area.storm-ended"
	stormPage  = "area.storm"
)

// Due reports whether the area must be stepped though it is in no storm now: its own is to
// end, or its times are to come.
func (r AreaRecord) Due(at time.Time) bool { return r.Open || r.Ended.After(at.Add(clockSlack)) }

// EndedAgo is how long ago the storm ended, as far as one reader of the record knows; now
// is by its clock, had and ago are the record and the answer before, where it had one. The
// record tells of its writer's clock, which may be hours wrong (ha.md §7): a reader that saw
// the storm end counts from then, and one that finds it ended believes no time to come. Else
// the cooldown would last as much longer as that clock is fast, or not at all.
func (r AreaRecord) EndedAgo(had AreaRecord, known bool, ago time.Duration, now time.Time) time.Duration {
	switch {
	case r.Open || r.Ended.IsZero() || known && had.Open:
		return 0
	case known && had.Ended.Equal(r.Ended):
		return ago
	}
	return max(0, now.Sub(r.Ended))
}

// Over reports whether a storm was there and has ended.
func (r AreaRecord) Over() bool { return !r.Open && !r.Ended.IsZero() }

// memberNow adds who is hit now and notes who is not any more.
func memberNow(was []AreaMember, hit []string, at time.Time) []AreaMember {
	out := slices.Clone(was)
	for i, m := range out {
		_, still := slices.BinarySearch(hit, m.Host)
		switch {
		case still:
			out[i].Left = time.Time{}
		case m.Left.IsZero():
			out[i].Left = at
		}
	}
	for _, h := range hit {
		if len(out) >= maxMembers {
			break
		}
		if !slices.ContainsFunc(out, func(m AreaMember) bool { return m.Host == h }) {
			out = append(out, AreaMember{Host: h, Since: at})
		}
	}
	return out
}

// hosts names those that are hit.
func hosts(hit []string) string {
	if len(hit) > 10 {
		return fmt.Sprintf(" (%s and %d more)", strings.Join(hit[:10], ", "), len(hit)-10)
	}
	return " (" + strings.Join(hit, ", ") + ")"
}

// Fold makes a page about a host that is part of a storm a part of that storm's one page:
// it stays in the log, named after the area, and wakes nobody a second time. That an
// operator's proof was revoked is never folded: instances may run twice.
func (e Effect) Fold(area string) Effect {
	if e.Severity != Page || e.Type == "ha.proof-revoked" || area == "" {
		return e
	}
	e.Severity = Warning
	e.Reason += " (part of the storm in " + area + ")"
	return e
}
