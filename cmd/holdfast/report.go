// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

func newIncidentReportCmd(e *env) *cobra.Command {
	var from incidentSource
	var format string
	c := incidentCmd(e, "report", "Write a report of one incident that can be handed to a customer",
		"Tells in plain words what happened, what was decided and why, the proof, and how long the host was gone. All times are UTC. As Markdown, or as one HTML page without anything from elsewhere; texts of devices and people cannot become markup in either.",
		"  holdfast incident report h-17.20261121T120015.i3\n  holdfast incident report h-17.20261121T120015.i3 -o html > i3.html\n  holdfast incident report --file i3.json")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		write := map[string]func(io.Writer, report) error{"markdown": writeMarkdown, "html": writeHTML}[format]
		if write == nil {
			return usage(fmt.Errorf("output %q, allowed are markdown, html", format))
		}
		x, err := from.load(e, cmd, args)
		if err != nil {
			return err
		}
		return printError(write(e.Stdout, reportOf(x)))
	}
	from.register(c)
	c.Flags().StringVarP(&format, "output", "o", "markdown", "markdown or html")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"markdown", "html"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists: line above
	return c
}

// report is a text in sections; nothing in it is markup.
type report struct {
	title    string
	sections []section
}

type section struct {
	title string
	text  []string // paragraphs
	head  []string // of the table
	rows  [][]string
	list  []string
}

// reportOf tells an incident to somebody who does not know Holdfast.
func reportOf(x v1.IncidentExport) report {
	i := x.Incident
	d := report{title: "Incident report: host " + i.Host}
	end := "it is still open"
	if !i.Ended.IsZero() {
		end = stamp(i.Ended)
	}
	facts := section{title: "Facts", head: []string{"", ""}, rows: [][]string{
		{"Host", i.Host}, {"Where", cmp.Or(x.Partition, "not on record")}, {"Incident", i.ID}, {"Began", stamp(i.Opened)}, {"Ended", end},
		{"Outcome", outcomeText(i)},
	}}
	d.sections = append(d.sections, section{title: "In short", text: inShort(x)}, facts, downtime(x))

	story := section{title: "What happened", head: []string{"Time (UTC)", "Kind", "What"}}
	for _, l := range i.Ledger {
		story.rows = append(story.rows, []string{stamp(l.At), l.What, l.Text})
	}
	d.sections = append(d.sections, story, decided(x), powered(x), proofSection(i))

	people := section{title: "What people did", head: []string{"Time (UTC)", "Who", "What", "Why"}}
	for _, a := range x.Operators {
		people.rows = append(people.rows, []string{stamp(a.At), a.Who, a.Message, a.Reason})
	}
	if len(people.rows) == 0 {
		people.text = []string{"Nothing is on record."}
	}
	d.sections = append(d.sections, people)
	if len(x.Missing) > 0 {
		d.sections = append(d.sections, section{title: "What is not in this report", list: x.Missing})
	}
	d.sections = append(d.sections, section{title: "About this report", text: []string{fmt.Sprintf("Made from what Holdfast %s recorded while it happened, exported at %s. All times are UTC.", cmp.Or(x.Software, "(unknown version)"), stamp(x.Exported))}})
	return d
}

func outcomeText(i v1.Incident) string {
	if i.Ended.IsZero() {
		return "still open: the host is " + i.State
	}
	return i.Outcome + ": " + cmp.Or(outcomes[i.Outcome], "see what happened")
}

// outcomes in a customer's words.
var outcomes = map[string]string{
	"fenced":       "the host was switched off for certain; its virtual machines could be started elsewhere",
	"failed":       "it could not be proven that the host was off, so nothing of it was started elsewhere; a human was called",
	"alive":        "the host answered again; it was not switched off",
	"contradicted": "the host was alive although its power device said that it was off; the device is not trusted any more",
	"recovered":    "the host was switched off and on again and came back",
	"rebooted":     "the host rebooted by itself and came back",
	"by operator":  "an operator took the host out of automatic recovery",
	"abandoned":    "the host turned out to be on before it was switched off; nothing was cut",
	"not eligible": "the host did not qualify for automatic recovery any more",
}

func inShort(x v1.IncidentExport) (out []string) {
	i := x.Incident
	s := fmt.Sprintf("At %s host %s came under suspicion: %s.", stamp(i.Opened), i.Host, strings.TrimSuffix(i.Cause, "."))
	if p := i.Proof; p != nil {
		s += fmt.Sprintf(" At %s it was proven that the host as it had been running could not run or write any more (%s, %s).", stamp(p.At), p.Assurance, p.How)
		if p.Revoked != "" {
			s += " That proof was revoked later: " + p.Revoked + "."
		}
	}
	if i.Ended.IsZero() {
		return []string{s + " The incident is still open."}
	}
	return []string{s + fmt.Sprintf(" The incident ended at %s, after %s: %s.", stamp(i.Ended), lasted(i.Ended.Sub(i.Opened)), cmp.Or(outcomes[i.Outcome], i.Outcome))}
}

// downtime says what is known of how long the host, and what ran on it, was gone.
func downtime(x v1.IncidentExport) section {
	i := x.Incident
	fell := i.Fell
	if fell.IsZero() {
		fell = i.Opened
	}
	s := section{title: "How long", list: []string{"The host was first missed at " + stamp(fell) + "."}}
	say := func(format string, args ...any) { s.list = append(s.list, fmt.Sprintf(format, args...)) }
	switch p := i.Proof; {
	case p == nil:
		say("It was never proven off, so that nothing of it was released to be started elsewhere.")
	default:
		say("From %s on, %s after it was missed, its virtual machines could be started elsewhere.", stamp(p.At), lasted(p.At.Sub(fell)))
		if len(p.Instances) > 0 {
			say("Virtual machines concerned: %s.", strings.Join(p.Instances, ", "))
		}
		if len(p.Local) > 0 {
			say("On disks of this host alone, so back only with it: %s.", strings.Join(p.Local, ", "))
		}
	}
	switch {
	case i.Ended.IsZero():
		say("It is not back yet.")
	case i.Outcome == "alive" || i.Outcome == "recovered" || i.Outcome == "rebooted" || i.Outcome == "contradicted":
		say("The host was back in service at %s: it was missing for %s.", stamp(i.Ended), lasted(i.Ended.Sub(fell)))
	default:
		say("When the incident ended at %s the host was not back in service.", stamp(i.Ended))
	}
	if i.Proof == nil && (i.Outcome == "alive" || i.Outcome == "abandoned") {
		say("Whether its virtual machines were interrupted meanwhile cannot be told from here.")
	}
	return s
}

// decided lists each look at the host and each time that action was considered.
func decided(x v1.IncidentExport) section {
	s := section{title: "What was decided, and why", head: []string{"Time (UTC)", "Question", "Answer", "Why"}}
	type row struct {
		at    time.Time
		cells []string
	}
	var rows []row
	words := map[string]string{"idle": "no sign of life", "active": "alive", "unknown": "cannot be told"}
	for _, c := range x.Checks {
		why := []string{c.Reason}
		for _, v := range c.Votes {
			why = append(why, fmt.Sprintf("%s: %s (%s)", v.Reader, cmp.Or(words[v.Verdict], v.Verdict), v.Reason))
		}
		rows = append(rows, row{c.Asked, []string{stamp(c.Asked), "Do neighbours see it live?", cmp.Or(words[c.Verdict], c.Verdict), strings.Join(why, "; ")}})
	}
	actions := map[string]string{"recover": "May it be switched off and on?", "fence": "May it be switched off?", "confirm": "It was found off: may that be made certain?"}
	for _, r := range x.Rounds {
		answer, why := "yes", fmt.Sprintf("all %d safety checks allowed it", len(r.Answers))
		if !r.Allowed {
			answer = "no"
			var held []string
			for _, a := range r.Answers {
				if a.Verdict == "allow" {
					continue
				}
				l := a.Guard + ": " + a.Reason
				if a.Value != "" && a.Limit != "" {
					l += fmt.Sprintf(" (%s, limit %s)", a.Value, a.Limit)
				}
				held = append(held, l)
			}
			why = strings.Join(held, "; ")
		}
		rows = append(rows, row{r.At, []string{stamp(r.At), cmp.Or(actions[r.Purpose], r.Purpose), answer, why}})
	}
	// Both lists are in order of time; laid together they are the story of decisions.
	for len(rows) > 0 {
		first := 0
		for k := range rows {
			if rows[k].at.Before(rows[first].at) {
				first = k
			}
		}
		s.rows = append(s.rows, rows[first].cells)
		rows = append(rows[:first], rows[first+1:]...)
	}
	if len(s.rows) == 0 {
		s.text = []string{"The host was neither examined by its neighbours nor was any action considered."}
	}
	return s
}

func powered(x v1.IncidentExport) section {
	s := section{title: "Power", head: []string{"Time (UTC)", "Device", "Asked", "Answer"}}
	asked := map[string]string{"identity": "Are you the device of this host?", "read": "Is the host on?", "note": "-"}
	verbs := map[string]string{"off": "Switch it off hard", "on": "Switch it on", "soft": "Shut it down", "reset": "Reset it", "cycle": "Power-cycle it"}
	sent := 0
	for _, p := range x.Packets {
		if p.Do == "send" {
			sent++
		}
		s.rows = append(s.rows, []string{stamp(p.At), p.Device, cmp.Or(verbs[p.Verb], asked[p.Do], p.Do+" "+p.Verb), cmp.Or(p.Answer, "no answer is on record")})
	}
	switch {
	case len(s.rows) == 0:
		s.text = []string{"Nothing was sent to its power devices."}
	case sent == 0:
		s.text = []string{"Its power devices were read; no command was sent."}
	default:
		s.text = []string{fmt.Sprintf("Commands sent to its power devices: %d.", sent)}
	}
	return s
}

func proofSection(i v1.Incident) section {
	s := section{title: "Proof"}
	p := i.Proof
	if p == nil {
		s.text = []string{"There is none: it was not proven that the host was off."}
		return s
	}
	how := map[string]string{"settled-off": "its power device, whose identity had been compared, read OFF several times in a row after it was told to switch off", "operator": "an operator has stated it on their own responsibility", "rebooted": "the host itself came back with a new boot, which ends the old one"}
	s.text = []string{fmt.Sprintf("%s at %s: boot %s of the host is over: %s.", p.Assurance, stamp(p.At), cmp.Or(p.Boot, "(unknown)"), cmp.Or(how[p.How], p.How))}
	if p.Revoked != "" {
		s.text = append(s.text, "It was revoked: "+p.Revoked+".")
	}
	return s
}

// stamp is a time as a report writes it.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// lasted is a duration in words.
func lasted(d time.Duration) string {
	d = max(0, d).Round(time.Second)
	h, m, s := int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60
	var parts []string
	for _, x := range []struct {
		n    int
		unit string
	}{{h, "h"}, {m, "min"}, {s, "s"}} {
		if x.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", x.n, x.unit))
		}
	}
	return cmp.Or(strings.Join(parts, " "), "0 s")
}

// markdown makes a text that Markdown shows as it is: no character of it is markup, there
// or in the HTML that is made of it, and no address becomes a link.
var markdown = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "://", "&#58;//",
	"\\", "\\\\", "`", "\\`", "*", "\\*", "_", "\\_", "{", "\\{", "}", "\\}", "[", "\\[", "]", "\\]", "#", "\\#", "|", "\\|", "!", "\\!", "~", "\\~", "$", "\\$", "^", "\\^")

func escapeMarkdown(s string) string {
	s = markdown.Replace(oneLine(s))
	if s != "" && strings.ContainsRune("-+=", rune(s[0])) { // of a list or a rule, where a line begins with it
		s = "\\" + s
	}
	return s
}

func oneLine(s string) string { return plain(strings.Join(strings.Fields(s), " ")) }

func writeMarkdown(w io.Writer, d report) error {
	var b strings.Builder
	row := func(cells []string) {
		b.WriteString("|")
		for _, c := range cells {
			b.WriteString(" " + escapeMarkdown(c) + " |")
		}
		b.WriteString("\n")
	}
	b.WriteString("# " + escapeMarkdown(d.title) + "\n")
	for _, s := range d.sections {
		b.WriteString("\n## " + escapeMarkdown(s.title) + "\n\n")
		for k, p := range s.text {
			if k > 0 {
				b.WriteString("\n")
			}
			b.WriteString(escapeMarkdown(p) + "\n")
		}
		if len(s.rows) > 0 {
			if len(s.text) > 0 {
				b.WriteString("\n")
			}
			row(s.head)
			b.WriteString(strings.Repeat("|---", len(s.head)) + "|\n")
			for _, r := range s.rows {
				row(r)
			}
		}
		for _, l := range s.list {
			b.WriteString("- " + escapeMarkdown(l) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

const reportStyle = "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}table{border-collapse:collapse;width:100%}td,th{border:1px solid #ccc;padding:.3rem .5rem;text-align:left;vertical-align:top}h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}"

func writeHTML(w io.Writer, d report) error {
	var b strings.Builder
	esc := func(s string) string { return html.EscapeString(oneLine(s)) }
	row := func(tag string, cells []string) {
		b.WriteString("<tr>")
		for _, c := range cells {
			b.WriteString("<" + tag + ">" + esc(c) + "</" + tag + ">")
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>" + esc(d.title) + "</title><style>" + reportStyle + "</style></head>\n<body>\n<h1>" + esc(d.title) + "</h1>\n")
	for _, s := range d.sections {
		b.WriteString("<h2>" + esc(s.title) + "</h2>\n")
		for _, p := range s.text {
			b.WriteString("<p>" + esc(p) + "</p>\n")
		}
		if len(s.rows) > 0 {
			b.WriteString("<table>\n")
			if strings.Join(s.head, "") != "" {
				row("th", s.head)
			}
			for _, r := range s.rows {
				row("td", r)
			}
			b.WriteString("</table>\n")
		}
		if len(s.list) > 0 {
			b.WriteString("<ul>\n")
			for _, l := range s.list {
				b.WriteString("<li>" + esc(l) + "</li>\n")
			}
			b.WriteString("</ul>\n")
		}
	}
	b.WriteString("</body></html>\n")
	_, err := io.WriteString(w, b.String())
	return err
}
