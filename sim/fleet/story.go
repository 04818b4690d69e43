// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// Entry is one line of the story.
type Entry struct {
	At       time.Duration `json:"at"`
	Kind     string        `json:"kind"` // script, world, control, partition, state, verdict, event, hold, release, packet, page, explain, broken
	Host     string        `json:"host,omitempty"`
	Severity string        `json:"severity,omitempty"`
	From     string        `json:"from,omitempty"` // kind state
	To       string        `json:"to,omitempty"`
	Text     string        `json:"text"`
}

// Story is what happened, in the order in which it happened.
type Story struct {
	Entries []Entry `json:"entries"`
	mute    bool
	said    map[string]map[string]bool // verdicts told of a host since its state or its holds changed
}

func newStory() *Story { return &Story{said: map[string]map[string]bool{}} }

func (s *Story) add(e Entry) {
	if n := len(s.Entries); n > 0 && s.Entries[n-1].Host == e.Host && s.Entries[n-1].Text == e.Text && s.Entries[n-1].At == e.At {
		return
	}
	if !s.mute {
		s.Entries = append(s.Entries, e)
	}
}

func (s *Story) world(at time.Time, who, text string) {
	s.add(Entry{At: at.Sub(Start), Kind: "world", Host: who, Text: text})
}

func (s *Story) control(at time.Time, who, text string) {
	s.add(Entry{At: at.Sub(Start), Kind: "control", Host: who, Text: text})
}

func (s *Story) partition(p *partition, e ha.Effect) {
	s.add(Entry{At: p.f.now.Sub(Start), Kind: "partition", Host: p.path, Severity: string(e.Severity), Text: e.Reason})
}

func (s *Story) area(at time.Time, area string, e ha.Effect) {
	x := Entry{At: at.Sub(Start), Kind: "area", Host: area, Severity: string(e.Severity), Text: e.Reason}
	if e.Severity == ha.Page {
		x.Text = "PAGE: " + x.Text
	}
	s.add(x)
}

func (s *Story) event(o *owner, kind, text string) {
	s.add(Entry{At: o.f.now.Sub(Start), Kind: kind, Host: o.h.ID, Text: text})
}

func (s *Story) packet(o *owner, text string) { s.event(o, "packet", "packet: "+text) }

func (s *Story) page(o *owner, text string) {
	s.add(Entry{At: o.f.now.Sub(Start), Kind: "page", Host: o.h.ID, Severity: string(ha.Page), Text: "PAGE: " + text})
}

var figures = regexp.MustCompile(`[0-9]+(\.[0-9]+)?(µs|ms|s|m|h)?([0-9]+(\.[0-9]+)?(s|m))?`)

// told are the announcements that a change of state says anyway.
var told = map[string]bool{
	"ha.available": true, "ha.initializing": true, "ha.ineligible": true, "ha.checking": true, "ha.suspect": true, "ha.degraded": true,
	"ha.unsupported": true, "ha.unprotected": true, "ha.recovering": true, "ha.fencing": true, "ha.fenced": true, "ha.failed": true, "ha.confirm-abandoned": true,
}

// committed tells what a commit has changed. The way from SUSPECT to CHECKING and back is
// told once for each thing that was seen.
func (s *Story) committed(o *owner, ev ha.Event, from ha.Record, effects []ha.Effect) {
	if s.mute {
		return
	}
	at, h, next := o.f.now.Sub(Start), o.h.ID, o.rec
	looking := func(x ha.State) bool { return x == ha.Suspect || x == ha.Checking }
	paged := false
	for _, e := range effects {
		paged = paged || e.Kind == ha.Announce && told[e.Type] && e.Fold(o.f.pagedArea(h)).Severity == ha.Page
	}
	switch {
	case from.State != next.State && !(looking(from.State) && looking(next.State)):
		s.said[h] = map[string]bool{figures.ReplaceAllString(next.Reason, "#"): true}
		e := Entry{At: at, Kind: "state", Host: h, From: string(from.State), To: string(next.State), Text: fmt.Sprintf("%s → %s: %s", from.State, next.State, next.Reason)}
		if paged {
			e.Severity, e.Text = string(ha.Page), "PAGE: "+e.Text
		}
		s.add(e)
	case ev.Kind == ha.EvActivity || ev.Kind == ha.EvPlace || from.State == next.State && from.Reason != next.Reason:
		if same := figures.ReplaceAllString(next.Reason, "#"); !s.said[h][same] && !strings.HasPrefix(next.Reason, "activity check") {
			if s.said[h] == nil {
				s.said[h] = map[string]bool{}
			}
			s.said[h][same] = true
			s.add(Entry{At: at, Kind: "verdict", Host: h, Text: next.Reason})
		}
	}
	for _, e := range effects {
		if e.Kind == ha.Announce && e.Severity == ha.Page {
			e = e.Fold(o.f.pagedArea(h))
		}
		if e.Kind == ha.Announce && !told[e.Type] {
			s.announced(at, h, next, e)
		}
		if e.Kind == ha.CloseIncident {
			s.add(Entry{At: at, Kind: "event", Host: h, Text: "incident closed: " + e.Incident.Outcome})
		}
	}
}

func (s *Story) announced(at time.Duration, h string, r ha.Record, e ha.Effect) {
	x := Entry{At: at, Kind: "event", Host: h, Severity: string(e.Severity), Text: e.Reason}
	switch e.Type {
	case "ha.safe-to-restart":
		x.Kind, x.Text = "release", fmt.Sprintf("safe to restart: %s (boot %s, %s, %s)", list(e.Instances), e.Boot, r.Proof.Assurance, r.Proof.How)
	case "ha.hold-placed":
		x.Kind = "hold"
		for _, hold := range r.Holds() {
			if hold.Since.Sub(Start) >= at-time.Second {
				x.Text += fmt.Sprintf("\n  until %s", hold.Clears)
			}
		}
	case "ha.hold-cleared":
		delete(s.said, h)
	case "ha.rebooted":
		x.Text += ": " + list(e.Instances)
	case "ha.order":
		x.Text = "ordered: " + x.Text
		if len(e.Local) > 0 {
			x.Text += "; with the host return: " + list(e.Local)
		}
	}
	if e.Severity == ha.Page {
		x.Kind, x.Text = "page", "PAGE: "+x.Text
	}
	s.add(x)
}

func list(ids []string) string {
	if len(ids) == 0 {
		return "no instances"
	}
	return strings.Join(ids, " ")
}

// stamp writes a time of the story.
func stamp(d time.Duration) string {
	d = d.Round(100 * time.Millisecond)
	if d >= time.Hour {
		return fmt.Sprintf("%d:%02d:%04.1f", int(d.Hours()), int(d.Minutes())%60, (d % time.Minute).Seconds())
	}
	return fmt.Sprintf("%02d:%04.1f", int(d.Minutes()), (d % time.Minute).Seconds())
}

// write tells the story from a moment on.
func (s *Story) write(w *strings.Builder, from time.Duration) {
	for _, e := range s.Entries {
		if e.At < from {
			continue
		}
		mark := " "
		if e.Kind == "script" {
			mark = ">"
		}
		text := strings.ReplaceAll(e.Text, "\n", "\n"+strings.Repeat(" ", 10))
		if e.Host != "" {
			text = fmt.Sprintf("%-4s %s", e.Host, text)
		}
		fmt.Fprintf(w, "%s %s %s\n", stamp(e.At), mark, text)
	}
}
