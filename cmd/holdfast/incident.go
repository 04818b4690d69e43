// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	"github.com/holdfast-ha/holdfast/coordinator/replay"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newIncidentCmd is `holdfast incident`: one incident, whole.
func newIncidentCmd(e *env) *cobra.Command {
	return group("incident", "Show, export and report one incident, open or closed",
		"Tells one incident whole: its timeline, the checks and votes of neighbours, every answer of the guards with value and limit, what was sent to power devices and what they answered, the proof, and what people did meanwhile.\n"+
			"Closed incidents are kept for 90 days, the last 100 of a host; what a replay needs for the last 8 of a host. With --file an exported one is read instead of the API.",
		`  holdfast incident show h-17.20261121T120015.i3
  holdfast incident export h-17.20261121T120015.i3 > i3.json
  holdfast incident report h-17.20261121T120015.i3 -o html > i3.html
  holdfast incident report --file i3.json`,
		newIncidentShowCmd(e), newIncidentExportCmd(e), newIncidentReportCmd(e))
}

// incidentSource is where an incident is read from.
type incidentSource struct{ file string }

func (s *incidentSource) register(c *cobra.Command) {
	c.Flags().StringVar(&s.file, "file", "", "read an exported incident from this file instead of the API")
}

func (s *incidentSource) load(e *env, cmd *cobra.Command, args []string) (x v1.IncidentExport, err error) {
	switch {
	case (len(args) == 1) == (s.file != ""):
		return x, usage(errors.New("which incident: allowed is one of its ID and --file"))
	case s.file == "":
		api, err := e.client()
		if err != nil {
			return x, err
		}
		return api.ExportIncident(cmd.Context(), args[0])
	}
	data, err := readBounded(s.file)
	if err != nil {
		return x, usage(err)
	}
	if _, err := replay.Head(data); err != nil {
		return x, usage(fmt.Errorf("%s: %w", s.file, err))
	}
	if err := json.Unmarshal(data, &x); err != nil {
		return x, usage(fmt.Errorf("%s: %w", s.file, err))
	}
	return x, nil
}

func incidentCmd(e *env, verb, short, long, example string) *cobra.Command {
	return &cobra.Command{Use: verb + " ID", Short: short, Long: long, Example: example, Args: cobra.MaximumNArgs(1), ValidArgsFunction: e.completeIncidents}
}

func newIncidentShowCmd(e *env) *cobra.Command {
	var out outputFlags
	var from incidentSource
	c := incidentCmd(e, "show", "Show everything that is kept of one incident",
		"Prints timeline, checks, guards with values and limits, packets, proof and operators. With -o json it prints what `export` writes.",
		"  holdfast incident show h-17.20261121T120015.i3\n  holdfast incident show h-17.20261121T120015.i3 -o json\n  holdfast incident show --file i3.json")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := out.options(e)
		if err != nil {
			return err
		}
		x, err := from.load(e, cmd, args)
		if err != nil {
			return err
		}
		return e.show(o, x, func(t *text) { e.incident(t, x) })
	}
	out.registerFormat(c)
	from.register(c)
	return c
}

func newIncidentExportCmd(e *env) *cobra.Command {
	c := incidentCmd(e, "export", "Write one incident into one file, without secrets",
		"Writes one self-contained JSON object (docs/ha.md has its schema) to standard output: what is shown, what is reported and what `holdfast replay` runs again.\n"+
			"Passwords, tokens and keys are not in it; names of hosts, addresses and texts of people are.",
		"  holdfast incident export h-17.20261121T120015.i3 > i3.json\n  holdfast incident export h-17.20261121T120015.i3 | gzip > i3.json.gz\n  holdfast replay i3.json")
	c.Args = cobra.ExactArgs(1)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		api, err := e.client()
		if err != nil {
			return err
		}
		x, err := api.ExportIncident(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		enc := json.NewEncoder(e.Stdout)
		enc.SetIndent("", " ")
		return printError(enc.Encode(x))
	}
	return c
}

func (e *env) incident(t *text, x v1.IncidentExport) {
	i := x.Incident
	t.field("Incident", plain(i.ID))
	t.field("Host", plain(i.Host))
	t.field("Partition", plain(x.Partition))
	t.field("Cause", plain(i.Cause))
	t.field("Opened", t.at(i.Opened))
	if !i.Fell.IsZero() && !i.Fell.Equal(i.Opened) {
		t.field("Fell silent", t.at(i.Fell))
	}
	if i.Ended.IsZero() {
		t.field("State", e.state(plain(i.State)))
	} else {
		t.field("Ended", t.at(i.Ended)+", after "+print.Age(i.Ended, i.Opened))
		t.field("Outcome", plain(i.Outcome))
	}
	t.field("Boot", plain(i.Boot))
	if p := i.Proof; p != nil {
		t.field("Proof", proofText(*p))
	}
	t.section("Held by:", plainAll(holdLines(i.Holds)))
	t.section("Timeline (UTC):", plainAll(entryLines(i.Ledger)))
	t.section("Checks of what neighbours see:", plainAll(checkLines(x.Checks)))
	for _, r := range x.Rounds {
		word := "held"
		if r.Allowed {
			word = "allowed"
		}
		t.section(fmt.Sprintf("Guards at %s, asked to %s: %s", clockTime(r.At), plain(r.Purpose), word), plainAll(e.guardLines(r.Answers)))
	}
	t.section("Power:", plainAll(packetLines(x.Packets)))
	t.section("People:", plainAll(operatorLines(x.Operators)))
	t.section("Not kept any more:", plainAll(x.Missing))
	if len(x.Steps) > 0 {
		t.printf("\n%d decisions are recorded with what they were made of: holdfast incident export %s > FILE; holdfast replay FILE\n", len(x.Steps), plain(i.ID))
	}
}

func proofText(p v1.Proof) string {
	l := fmt.Sprintf("%s (%s) at %s: boot %s is over", p.Assurance, p.How, print.Exact(p.At), p.Boot)
	if p.Revoked != "" {
		l += "; revoked: " + p.Revoked
	}
	return plain(l)
}

func checkLines(checks []v1.IncidentCheck) []string {
	var out []string
	for _, c := range checks {
		out = append(out, fmt.Sprintf("%s  %s: %s", clockTime(c.Asked), c.Verdict, c.Reason))
		votes := slices.Clone(c.Votes)
		slices.SortFunc(votes, func(a, b v1.Vote) int { return strings.Compare(a.Reader, b.Reader) })
		for _, v := range votes {
			out = append(out, fmt.Sprintf("            %s sees: %s: %s", v.Reader, v.Verdict, v.Reason))
		}
	}
	return out
}

func packetLines(packets []v1.IncidentPacket) []string {
	var out []string
	for _, p := range packets {
		out = append(out, fmt.Sprintf("%s  %s %s: %s", clockTime(p.At), p.Device, packetWhat(p), cmp.Or(p.Answer, "no answer is on record")))
	}
	return out
}

// packetWhat says what was asked of a device.
func packetWhat(p v1.IncidentPacket) string {
	if p.Verb != "" {
		return p.Do + " " + p.Verb
	}
	return p.Do
}

func operatorLines(all []v1.Audit) []string {
	var out []string
	for _, a := range all {
		l := fmt.Sprintf("%s  %s: %s", clockTime(a.At), a.Who, a.Message)
		if a.Reason != "" {
			l += " — because: " + a.Reason
		}
		out = append(out, l)
	}
	return out
}

func clockTime(t time.Time) string { return t.UTC().Format("15:04:05") }

// plain is a text of a file or a device without what moves a terminal's cursor.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u202e' || r == '\u2066' || r == '\u2067' || r == '\u2068' {
			return '?'
		}
		return r
	}, s)
}

func plainAll(lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = plain(l)
	}
	return out
}
