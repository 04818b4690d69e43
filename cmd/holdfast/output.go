// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// outputFlags are the flags of every command that prints things.
type outputFlags struct {
	format, sortBy string
	noHeaders      bool
}

// register adds the flags of a list; registerFormat only -o.
func (f *outputFlags) register(c *cobra.Command) {
	f.registerFormat(c)
	c.Flags().BoolVar(&f.noHeaders, "no-headers", false, "leave the header line out")
	c.Flags().StringVar(&f.sortBy, "sort-by", "", "column to sort by, or a jsonpath such as .status.state")
}

func (f *outputFlags) registerFormat(c *cobra.Command) {
	c.Flags().StringVarP(&f.format, "output", "o", "table", "table, wide, json, yaml, name or jsonpath=TEMPLATE")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "wide", "json", "yaml", "name", "jsonpath="}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists: line above
}

// options makes the printer's options of the flags.
func (f *outputFlags) options(e *env) (print.Options, error) {
	format, err := print.ParseFormat(f.format)
	if err != nil {
		return print.Options{}, usage(err)
	}
	return print.Options{Format: format, NoHeaders: f.noHeaders, SortBy: f.sortBy, Colour: e.colour(), Now: e.Now()}, nil
}

// colour says whether state words may be coloured.
func (e *env) colour() bool {
	return e.IsTTY(e.Stdout) && e.Getenv("NO_COLOR") == "" && e.Getenv("TERM") != "dumb"
}

// state colours a state word in running text.
func (e *env) state(word string) string {
	if e.colour() {
		return print.Colour(word)
	}
	return word
}

func labelText(labels map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	return strings.Join(out, ",")
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// hostsTable lists hosts; labels adds their labels also when not wide.
func hostsTable(labels bool) print.Table[v1.Host] {
	t := print.Table[v1.Host]{
		Kind: "host", Plural: "hosts",
		Name: func(h v1.Host) string { return h.Spec.ID },
		Columns: []print.Column[v1.Host]{
			{Name: "HOST", Value: func(h v1.Host) any { return h.Spec.ID }},
			{Name: "STATE", Value: func(h v1.Host) any {
				if h.Deleted {
					return print.State("DELETED")
				}
				return print.State(h.Status.State)
			}},
			{Name: "POWER", Value: func(h v1.Host) any { return print.State(h.Status.Power) }},
			{Name: "AGE", Value: func(h v1.Host) any { return h.Status.Since }},
			{Name: "PARTITION", Value: func(h v1.Host) any { return h.Spec.Partition }},
			{Name: "OWNER", Value: func(h v1.Host) any { return h.Status.Owner }},
			{Name: "HOLDS", Value: func(h v1.Host) any {
				var by []string
				for _, x := range h.Status.Holds {
					by = append(by, x.By)
				}
				return strings.Join(by, ",")
			}},
			{Name: "BOOT", Wide: true, Value: func(h v1.Host) any { return h.Status.Boot }},
			{Name: "INCIDENT", Wide: true, Value: func(h v1.Host) any { return h.Status.Incident }},
			{Name: "SINCE", Wide: true, Value: func(h v1.Host) any { return print.Moment(h.Status.Since) }},
			{Name: "LABELS", Wide: !labels, Value: func(h v1.Host) any { return labelText(h.Spec.Labels) }},
			{Name: "REASON", Wide: true, Value: func(h v1.Host) any { return h.Status.Reason }},
		},
	}
	return t
}

var partitionsTable = print.Table[v1.Partition]{
	Kind: "partition", Plural: "partitions",
	Name: func(p v1.Partition) string { return p.Spec.Path },
	Columns: []print.Column[v1.Partition]{
		{Name: "PARTITION", Value: func(p v1.Partition) any { return p.Spec.Path }},
		{Name: "STATE", Value: func(p v1.Partition) any { return print.State(p.State) }},
		{Name: "HOSTS", Value: func(p v1.Partition) any { return p.Hosts }},
		{Name: "AVAILABLE", Value: func(p v1.Partition) any { return p.States["AVAILABLE"] }},
		{Name: "BUDGET", Value: func(p v1.Partition) any { return budgetText(p.Budget) }},
		{Name: "AGE", Value: func(p v1.Partition) any { return p.Since }},
		{Name: "OWNER", Value: func(p v1.Partition) any { return p.Owner }},
		{Name: "DISARMED", Wide: true, Value: func(p v1.Partition) any { return strings.Join(p.Disarmed, ",") }},
		{Name: "STATES", Wide: true, Value: func(p v1.Partition) any { return statesText(p.States) }},
		{Name: "REASON", Wide: true, Value: func(p v1.Partition) any { return p.Reason }},
	},
}

func budgetText(b *v1.Budget) string {
	if b == nil {
		return ""
	}
	s := fmt.Sprintf("%d/%d in %s", b.Used, b.Limit, span(b.Window))
	if b.Latched {
		s += " (latched)"
	}
	return s
}

// span is a duration without the zeros that Go puts behind it: 1h0m0s is 1h.
func span(s string) string {
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// statesText counts states in the order of ha.md §3.
func statesText(states map[string]int) string {
	var out []string
	for _, s := range v1.HostStates {
		if n := states[s]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, s))
		}
	}
	return strings.Join(out, ", ")
}

var workersTable = print.Table[v1.Worker]{
	Kind: "worker", Plural: "workers",
	Name: func(w v1.Worker) string { return w.ID },
	Columns: []print.Column[v1.Worker]{
		{Name: "WORKER", Value: func(w v1.Worker) any { return w.ID }},
		{Name: "STATE", Value: func(w v1.Worker) any { return print.State(w.State) }},
		{Name: "HOSTS", Value: func(w v1.Worker) any { return w.Hosts }},
		{Name: "SLOTS", Value: func(w v1.Worker) any { return w.Slots }},
		{Name: "LINKS", Value: func(w v1.Worker) any { return countText(w.Links) }},
		{Name: "LEASE", Value: leaseText},
		{Name: "ZONE", Value: func(w v1.Worker) any { return w.Zone }},
		{Name: "AGE", Value: func(w v1.Worker) any { return w.Started }},
		{Name: "API", Value: func(w v1.Worker) any { return w.API }},
		{Name: "VERSION", Value: func(w v1.Worker) any { return w.Version }},
		{Name: "STANDBY", Wide: true, Value: func(w v1.Worker) any { return countText(w.Standby) }},
		{Name: "AGENTS", Wide: true, Value: func(w v1.Worker) any { return w.Agents }},
		{Name: "WEIGHT", Wide: true, Value: func(w v1.Worker) any { return w.Weight }},
		{Name: "PID", Wide: true, Value: func(w v1.Worker) any { return w.PID }},
		{Name: "SINCE", Wide: true, Value: func(w v1.Worker) any { return print.Moment(w.Since) }},
		{Name: "BOOT", Wide: true, Value: func(w v1.Worker) any { return w.Boot }},
		{Name: "WHY", Wide: true, Value: func(w v1.Worker) any {
			if w.Drain == nil {
				return ""
			}
			return w.Drain.Reason
		}},
	},
}

// countText and leaseText are a worker's own word: of one that did not answer unknown,
// never nothing.
func countText(n *int) any {
	if n == nil {
		return v1.AnswersUnknown
	}
	return strconv.Itoa(*n)
}

func leaseText(w v1.Worker) any {
	if w.LeaseLeft == "" {
		return v1.AnswersUnknown
	}
	return w.LeaseLeft
}

var areasTable = print.Table[v1.Area]{
	Kind: "area", Plural: "areas",
	Name: func(a v1.Area) string { return a.Area },
	Columns: []print.Column[v1.Area]{
		{Name: "AREA", Value: func(a v1.Area) any { return a.Area }},
		{Name: "STATE", Value: func(a v1.Area) any { return print.State(a.State) }},
		{Name: "HIT", Value: func(a v1.Area) any { return len(a.Members) + a.More }},
		{Name: "HOSTS", Value: func(a v1.Area) any { return a.Hosts }},
		{Name: "BEGAN", Value: func(a v1.Area) any { return a.Began }},
		{Name: "PART OF", Value: func(a v1.Area) any { return a.Under }},
		{Name: "ENDED", Wide: true, Value: func(a v1.Area) any { return print.Moment(a.Ended) }},
		{Name: "PAGED", Wide: true, Value: func(a v1.Area) any { return print.Moment(a.Paged) }},
		{Name: "WHY", Value: func(a v1.Area) any { return a.Why }},
	},
}

var incidentsTable = print.Table[v1.Incident]{
	Kind: "incident", Plural: "incidents",
	Name: func(i v1.Incident) string { return i.ID },
	Columns: []print.Column[v1.Incident]{
		{Name: "INCIDENT", Value: func(i v1.Incident) any { return i.ID }},
		{Name: "HOST", Value: func(i v1.Incident) any { return i.Host }},
		{Name: "STATE", Value: func(i v1.Incident) any {
			if i.Ended.IsZero() {
				return print.State(i.State)
			}
			return print.State("ended")
		}},
		{Name: "OPENED", Value: func(i v1.Incident) any { return i.Opened }},
		{Name: "LASTED", Value: func(i v1.Incident) any {
			if i.Ended.IsZero() {
				return ""
			}
			return print.Age(i.Ended, i.Opened)
		}},
		{Name: "CAUSE", Value: func(i v1.Incident) any { return i.Cause }},
		{Name: "OUTCOME", Value: func(i v1.Incident) any { return i.Outcome }},
		{Name: "BEGAN", Wide: true, Value: func(i v1.Incident) any { return print.Moment(i.Opened) }},
		{Name: "ENDED", Wide: true, Value: func(i v1.Incident) any { return print.Moment(i.Ended) }},
	},
}

var eventsTable = print.Table[v1.Event]{
	Kind: "event", Plural: "events",
	Name: func(x v1.Event) string { return x.ID },
	Columns: []print.Column[v1.Event]{
		{Name: "TIME", Value: func(x v1.Event) any { return print.Moment(x.At) }},
		{Name: "SEVERITY", Value: func(x v1.Event) any { return print.State(x.Severity) }},
		{Name: "TYPE", Value: func(x v1.Event) any { return x.Type }},
		{Name: "OBJECT", Value: func(x v1.Event) any { return eventObject(x) }},
		{Name: "REVISION", Wide: true, Value: func(x v1.Event) any { return int(x.Revision) }},
		{Name: "BY", Wide: true, Value: func(x v1.Event) any { return x.Worker }},
		{Name: "INCIDENT", Wide: true, Value: func(x v1.Event) any { return x.Incident }},
		{Name: "MESSAGE", Value: func(x v1.Event) any { return x.Message }},
	},
}

// eventObject is what an event is about.
func eventObject(x v1.Event) string {
	switch {
	case x.Host != "":
		return "host/" + x.Host
	case x.Partition != "":
		return "partition/" + x.Partition
	case x.Worker != "":
		return "worker/" + x.Worker
	}
	return ""
}

var settingsTable = print.Table[v1.Setting]{
	Kind: "setting", Plural: "settings",
	Name: func(s v1.Setting) string { return s.Name },
	Columns: []print.Column[v1.Setting]{
		{Name: "SETTING", Value: func(s v1.Setting) any { return s.Name }},
		{Name: "VALUE", Value: func(s v1.Setting) any { return s.Value }},
		{Name: "ORIGIN", Value: func(s v1.Setting) any { return s.Origin }},
		{Name: "DEFAULT", Wide: true, Value: func(s v1.Setting) any { return s.Default }},
		{Name: "ALLOWED", Wide: true, Value: func(s v1.Setting) any { return s.Allowed }},
		{Name: "EFFECT", Wide: true, Value: func(s v1.Setting) any { return s.Effect }},
		{Name: "BY", Wide: true, Value: func(s v1.Setting) any { return s.By }},
		{Name: "EXPIRES", Wide: true, Value: func(s v1.Setting) any { return print.Moment(s.Expires) }},
		{Name: "DOC", Wide: true, Value: func(s v1.Setting) any { return s.Doc }},
	},
}

var candidatesTable = print.Table[v1.Candidate]{
	Kind: "host", Plural: "candidates",
	Name: func(c v1.Candidate) string { return c.Host },
	Columns: []print.Column[v1.Candidate]{
		{Name: "HOST", Value: func(c v1.Candidate) any { return c.Host }},
		{Name: "ALLOWED", Value: func(c v1.Candidate) any { return yesNo(c.Allowed) }},
		{Name: "RANK", Value: func(c v1.Candidate) any { return c.Rank }},
		{Name: "REASON", Value: func(c v1.Candidate) any { return c.Reason }},
	},
}

// deviceRow is one power device with the host it belongs to.
type deviceRow struct {
	Host  string `json:"host"`
	Power string `json:"power"` // of the host: all its devices together
	v1.DeviceStatus
}

var devicesTable = print.Table[deviceRow]{
	Kind: "device", Plural: "power devices",
	Name: func(d deviceRow) string { return d.Host + "/" + d.Name },
	Columns: []print.Column[deviceRow]{
		{Name: "HOST", Value: func(d deviceRow) any { return d.Host }},
		{Name: "POWER", Value: func(d deviceRow) any { return print.State(d.Power) }},
		{Name: "DEVICE", Value: func(d deviceRow) any { return d.Name }},
		{Name: "DRIVER", Value: func(d deviceRow) any { return d.Driver }},
		{Name: "READS", Value: func(d deviceRow) any { return print.State(d.State) }},
		{Name: "READ", Value: func(d deviceRow) any { return d.Read }},
		{Name: "TESTED", Value: func(d deviceRow) any { return d.Tested }},
		{Name: "TEST", Value: func(d deviceRow) any { return testText(d.DeviceStatus) }},
		{Name: "ERROR", Value: func(d deviceRow) any { return d.Error }},
	},
}

func testText(d v1.DeviceStatus) string {
	switch {
	case d.Tested.IsZero():
		return "never"
	case d.TestOK:
		return "passed"
	case d.TestErr != "":
		return "failed: " + d.TestErr
	}
	return "failed"
}

// text writes sections of running text; it keeps the first error.
type text struct {
	w   io.Writer
	now time.Time
	err error
}

func (t *text) printf(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format, args...)
	}
}

// field writes one aligned line; an empty value is left out.
func (t *text) field(name, value string) {
	if value != "" {
		t.printf("%-13s %s\n", name+":", value)
	}
}

// at is a time with its age, empty if there is none.
func (t *text) at(when time.Time) string {
	if when.IsZero() {
		return ""
	}
	return print.Exact(when) + " (" + print.Age(t.now, when) + " ago)"
}

// section writes a title and one bullet for each line; nothing if there are none.
func (t *text) section(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	t.printf("\n%s\n", title)
	for _, l := range lines {
		t.printf("  - %s\n", l)
	}
}

func holdLines(holds []v1.Hold) []string {
	var out []string
	for _, h := range holds {
		l := h.By + ": " + h.Reason
		if h.Clears != "" {
			l += " — cleared by: " + h.Clears
		}
		out = append(out, l)
	}
	return out
}

// guardLines puts those that do not allow first.
func (e *env) guardLines(guards []v1.GuardAnswer) []string {
	var against, for_ []string
	for _, g := range guards {
		l := fmt.Sprintf("%-12s %s", g.Guard, e.state(g.Verdict))
		if g.Reason != "" {
			l += ": " + g.Reason
		}
		if g.Value != "" && g.Limit != "" {
			l += fmt.Sprintf(" (%s, limit %s)", g.Value, g.Limit)
		}
		if g.Verdict == "allow" {
			for_ = append(for_, l)
			continue
		}
		if g.Clears != "" {
			l += " — cleared by: " + g.Clears
		}
		against = append(against, l)
	}
	return append(against, for_...)
}

func entryLines(entries []v1.Entry) []string {
	width := 0
	for _, x := range entries {
		width = max(width, len(x.What))
	}
	var out []string
	for _, x := range entries {
		at := "--:--:--" // of things that have no time of their own
		if !x.At.IsZero() {
			at = x.At.UTC().Format("15:04:05")
		}
		out = append(out, fmt.Sprintf("%s  %-*s  %s", at, width, x.What, x.Text))
	}
	return out
}
