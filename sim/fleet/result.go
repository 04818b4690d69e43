// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"io"
	"strings"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// Result is what a simulation came to.
type Result struct {
	Story  []Entry     `json:"story"`
	Hosts  []HostAtEnd `json:"hosts"`
	Broken []Broken    `json:"broken,omitempty"` // rules of the house: must be empty
	Power  int         `json:"packets"`          // commands sent to power devices
	Alive  int         `json:"alive,omitempty"`  // hosts among them that ran, cut off from everybody who could tell
	Steps  int         `json:"steps"`            // decisions taken
}

// HostAtEnd is one host when the time was over, what it really did beside what is on
// record, and what would change it.
type HostAtEnd struct {
	Host        string   `json:"host"`
	State       ha.State `json:"state"`
	Why         string   `json:"why"`
	Really      string   `json:"really"` // runs, stands still, off, dead
	Power       string   `json:"power"`
	Next        []string `json:"next,omitempty"`
	WouldChange []string `json:"wouldChange,omitempty"`
	OperatorMay []string `json:"operatorMay,omitempty"`
}

// really says what is true of a host.
func (h *host) really() string {
	switch {
	case !h.fed:
		return "without power"
	case !h.chassis:
		return "off"
	case h.frozen:
		return "stands still"
	case !h.kernel:
		return "dead"
	case !h.agent:
		return "runs without its agent"
	}
	return "runs"
}

// Result tells how it ended.
func (f *Fleet) Result() Result {
	r := Result{Story: f.log.Entries, Broken: f.rules.Broken, Power: f.rules.packets, Alive: f.rules.alive, Steps: f.rules.steps}
	for _, h := range f.hosts {
		e := f.explanation(h)
		x := HostAtEnd{Host: h.ID, State: h.rec.State, Why: h.rec.Reason, Really: h.really(), Power: h.rec.Power.String()}
		if h.rec.State != ha.Available {
			x.Next, x.WouldChange, x.OperatorMay = e.Next, e.WouldChange, e.OperatorMay
		}
		r.Hosts = append(r.Hosts, x)
	}
	return r
}

func (f *Fleet) explanation(h *host) ha.Explanation {
	p := f.effective(h).policy
	p.Disarmed = strings.Join(f.disarmed(h), "; ")
	return ha.Explain(h.rec, p, f.now)
}

// Explain is what `holdfast explain host` is made of: the host's record and what follows
// from it now; false: there is no such host.
func (f *Fleet) Explain(id string) (ha.Record, ha.Explanation, bool) {
	h, ok := f.byID[id]
	if !ok {
		return ha.Record{}, ha.Explanation{}, false
	}
	return h.rec, f.explanation(h), true
}

func (f *Fleet) explain(h *host) string {
	e := f.explanation(h)
	lines := []string{fmt.Sprintf("is %s since %s: %s", e.State, stamp(e.Since.Sub(Start)), e.Why)}
	for _, n := range e.Next {
		lines = append(lines, "  next: "+n)
	}
	for _, c := range e.WouldChange {
		lines = append(lines, "  would change it: "+c)
	}
	for _, m := range e.OperatorMay {
		lines = append(lines, "  you may: "+m)
	}
	return strings.Join(lines, "\n")
}

// Write tells the story of a script, without the time in which the fleet came up, and how
// it ended.
func (r Result) Write(out io.Writer) error {
	var w strings.Builder
	s := Story{Entries: r.Story}
	s.write(&w, 0)
	fmt.Fprintf(&w, "\nin the end\n")
	well := 0
	for _, h := range r.Hosts {
		if h.State == ha.Available && h.Really == "runs" {
			well++
			continue
		}
		fmt.Fprintf(&w, "  %-4s %s, in truth it %s: %s\n", h.Host, h.State, is(h.Really), h.Why)
		for _, c := range h.WouldChange {
			fmt.Fprintf(&w, "       would change it: %s\n", c)
		}
	}
	fmt.Fprintf(&w, "  %d of %d hosts AVAILABLE, %d power commands\n", well, len(r.Hosts), r.Power)
	if r.Alive > 0 {
		fmt.Fprintf(&w, "  hosts that ran when they were switched off, and that nobody could hear: %d\n", r.Alive)
	}
	for _, b := range r.Broken {
		fmt.Fprintf(&w, "RULE BROKEN %s\n", b)
	}
	_, err := io.WriteString(out, w.String())
	return err
}

func is(what string) string {
	if strings.HasPrefix(what, "runs") || strings.HasPrefix(what, "stands") {
		return what
	}
	return "is " + what
}
