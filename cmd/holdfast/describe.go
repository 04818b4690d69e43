// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newDescribeCmd is `holdfast describe`: everything about one thing.
func newDescribeCmd(e *env) *cobra.Command {
	return group("describe", "Show everything about one host, partition, worker, area, incident, pool, volume, template or instance",
		"Prints all that is known of one thing, in sections. Why it is so is the business of `holdfast explain`.",
		`  holdfast describe host h-17
  holdfast describe partition z1/p1/c1
  holdfast describe area rack/z1/7
  holdfast describe incident 0198c1d2-7f6a-7c11-9a53-1f2e3d4c5b6a`,
		append(describeResources(e), describeOne(e, "host", []string{"hosts", "h"}, e.completeHosts, func(cmd *cobra.Command, api *v1.Client, id string) (any, func(*text), error) {
			h, err := api.Host(cmd.Context(), id)
			if err != nil {
				return nil, nil, err
			}
			events, err := api.Events(cmd.Context(), v1.EventQuery{Host: id})
			if err != nil {
				return nil, nil, err
			}
			return h, func(t *text) { e.describeHost(t, h, events[max(0, len(events)-10):]) }, nil
		}),
			describeOne(e, "partition", []string{"partitions", "p"}, e.completePartitions, func(cmd *cobra.Command, api *v1.Client, path string) (any, func(*text), error) {
				p, err := api.Partition(cmd.Context(), path)
				return p, func(t *text) { e.describePartition(t, p) }, err
			}),
			describeOne(e, "worker", []string{"workers", "w"}, e.completeWorkers, func(cmd *cobra.Command, api *v1.Client, id string) (any, func(*text), error) {
				w, err := api.Worker(cmd.Context(), id)
				return w, func(t *text) { e.describeWorker(t, w) }, err
			}),
			describeOne(e, "area", []string{"areas", "a"}, e.completeAreas, func(cmd *cobra.Command, api *v1.Client, area string) (any, func(*text), error) {
				a, err := api.Area(cmd.Context(), area)
				return a, func(t *text) { e.describeArea(t, a) }, err
			}),
			describeOne(e, "incident", []string{"incidents", "i"}, e.completeIncidents, func(cmd *cobra.Command, api *v1.Client, id string) (any, func(*text), error) {
				i, err := api.Incident(cmd.Context(), id)
				return i, func(t *text) { e.describeIncident(t, i) }, err
			}))...)
}

// completer is cobra's completion of arguments.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

func describeOne(e *env, kind string, aliases []string, complete completer, load func(*cobra.Command, *v1.Client, string) (any, func(*text), error)) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: kind + " NAME", Aliases: aliases, Short: "Describe one " + kind, Args: cobra.ExactArgs(1),
		Long:              "Prints all that is known of one " + kind + ". With -o json or yaml it prints the object of the API.",
		Example:           fmt.Sprintf("  holdfast describe %s NAME\n  holdfast describe %s NAME -o json\n  holdfast describe %s NAME -o jsonpath='{.spec}'", kind, kind, kind),
		ValidArgsFunction: complete,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := out.options(e)
		if err != nil {
			return err
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		v, show, err := load(cmd, api, args[0])
		if err != nil {
			return err
		}
		return e.show(o, v, show)
	}
	out.registerFormat(c)
	return c
}

// show prints a value in the chosen format, as running text by default.
func (e *env) show(o print.Options, v any, as func(*text)) error {
	return print.Value(e.Stdout, o, v, func(w io.Writer) error {
		t := &text{w: w, now: e.Now()}
		as(t)
		return t.err
	})
}

func (e *env) describeHost(t *text, h v1.Host, events []v1.Event) {
	s := h.Status
	t.field("Host", h.Spec.ID)
	t.field("Partition", h.Spec.Partition)
	t.field("Provider", h.Spec.Provider)
	t.field("Labels", labelText(h.Spec.Labels))
	t.field("State", e.state(s.State)+sinceText(t, s.Since))
	t.field("Reason", s.Reason)
	t.field("Power", e.state(s.Power)+sinceText(t, s.PowerSince))
	t.field("Boot", s.Boot)
	link := map[string]string{v1.LinkedYes: "linked", v1.LinkedNo: "not linked"}[s.Linked]
	if link == "" {
		link = "not known: its owner did not answer"
	}
	if !s.LastPing.IsZero() {
		link += ", last ping " + t.at(s.LastPing)
	}
	if s.DiskHung != "" {
		link += ", its agent's disk hangs since " + s.DiskHung + " and it begins no commands"
	}
	t.field("Agent", link)
	t.field("Owner", orNone(s.Owner)+fmt.Sprintf(" (slot %d, epoch %s)", s.Slot, orNone(s.Epoch)))
	t.field("Incident", s.Incident)
	var off []string
	for _, w := range []struct {
		on   bool
		text string
	}{{h.Spec.Maintenance, "in maintenance"}, {h.Spec.HADisabled, "HA disabled"}, {h.Spec.Disabled, "host disabled"}} {
		if w.on {
			off = append(off, w.text)
		}
	}
	if len(off) > 0 && h.Spec.Why != "" {
		off = append(off, "because: "+h.Spec.Why)
	}
	t.field("Switches", strings.Join(off, ", "))
	t.field("Pools", strings.Join(h.Spec.Pools, ", "))
	t.field("Probes", strings.Join(h.Spec.Probes, ", "))
	t.field("Contradicted", strings.Join(s.Contradicted, ", "))
	t.section("Held by:", holdLines(s.Holds))
	var devices []string
	for _, d := range h.Spec.Power {
		l := fmt.Sprintf("%s: %s at %s", d.Name, d.Driver, d.Address)
		if i := slices.IndexFunc(s.Devices, func(x v1.DeviceStatus) bool { return x.Name == d.Name }); i >= 0 {
			x := s.Devices[i]
			l += fmt.Sprintf(", reads %s (%s ago), test %s", e.state(x.State), print.Age(t.now, x.Read), testText(x))
			if x.Error != "" {
				l += ", " + x.Error
			}
		}
		devices = append(devices, l)
	}
	t.section("Power devices:", devices)
	t.section("Instances:", s.Instances)
	t.section("On its own pools, they return with the host:", s.Local)
	if p := s.Proof; p != nil {
		t.printf("\nProof: boot %s is over, assurance %s, %s, by %s\n", p.Boot, p.Assurance, t.at(p.At), p.How)
		if p.Revoked != "" {
			t.printf("  revoked: %s\n", p.Revoked)
		}
	}
	width := 0
	for _, x := range events {
		width = max(width, len(x.Type))
	}
	var lines []string
	for _, x := range events {
		lines = append(lines, fmt.Sprintf("%s  %-*s  %s", print.Exact(x.At), width, x.Type, x.Message))
	}
	t.section("Last events:", lines)
}

func sinceText(t *text, when time.Time) string {
	if when.IsZero() {
		return ""
	}
	return " since " + t.at(when)
}

func (e *env) describePartition(t *text, p v1.Partition) {
	t.field("Partition", p.Spec.Path)
	t.field("State", e.state(p.State)+sinceText(t, p.Since))
	t.field("Reason", p.Reason)
	t.field("Owner", p.Owner)
	t.field("Labels", labelText(p.Spec.Labels))
	t.field("Enabled", yesNo(!p.Spec.Disabled))
	t.field("HA", yesNo(!p.Spec.HADisabled))
	t.field("Why", p.Spec.Why)
	t.field("Hosts", fmt.Sprintf("%d: %s", p.Hosts, orNone(statesText(p.States))))
	t.field("Disarmed", strings.Join(p.Disarmed, ", "))
	t.field("Budget", budgetText(p.Budget))
}

func (e *env) describeWorker(t *text, w v1.Worker) {
	t.field("Worker", w.ID)
	t.field("State", e.state(w.State)+sinceText(t, w.Since))
	if d := w.Drain; d != nil {
		t.field("Drained", t.at(d.At)+" by "+d.By)
		t.field("Because", d.Reason)
	}
	t.field("Owns", fmt.Sprintf("%d hosts in %d slots", w.Hosts, w.Slots))
	if w.Answers == v1.AnswersYes {
		t.field("Links", fmt.Sprintf("%s agents, %s more stand by", countText(w.Links), countText(w.Standby)))
		t.field("Lease", fmt.Sprintf("%s left", leaseText(w)))
	} else {
		t.field("Links", "not known: the worker did not answer")
		t.field("Lease", "not known: the worker did not answer")
	}
	if w.State == "absent" {
		return
	}
	t.field("Started", t.at(w.Started))
	t.field("Boot", w.Boot)
	t.field("Version", w.Version)
	t.field("Zone", w.Zone)
	t.field("Weight", fmt.Sprint(w.Weight))
	t.field("API", w.API)
	t.field("Agents", w.Agents)
	if w.PID > 0 {
		t.field("PID", fmt.Sprint(w.PID))
	}
}

func (e *env) describeArea(t *text, a v1.Area) {
	t.field("Area", a.Area)
	t.field("State", e.state(a.State))
	t.field("Why", a.Why)
	if a.Under != "" {
		t.field("Part of", "the storm in "+a.Under)
	}
	t.field("Began", t.at(a.Began))
	t.field("Ended", t.at(a.Ended))
	if !a.Until.IsZero() {
		t.field("Left alone", "until "+print.Exact(a.Until))
	}
	t.field("Paged", t.at(a.Paged))
	t.field("Hosts", fmt.Sprintf("%d, %d of them hit", a.Hosts, len(a.Members)+a.More))
	var lines []string
	for _, m := range a.Members {
		l := fmt.Sprintf("%s: %s, since %s", m.Host, e.state(m.State), print.Exact(m.Since))
		if !m.Left.IsZero() {
			l += ", left the storm " + print.Exact(m.Left)
		}
		lines = append(lines, l)
	}
	if a.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", a.More))
	}
	t.section("Hosts of the storm:", lines)
}

func (e *env) describeIncident(t *text, i v1.Incident) {
	t.field("Incident", i.ID)
	t.field("Host", i.Host)
	t.field("Cause", i.Cause)
	t.field("Opened", t.at(i.Opened))
	if i.Ended.IsZero() {
		t.field("State", e.state(i.State))
	} else {
		t.field("Ended", t.at(i.Ended)+", after "+print.Age(i.Ended, i.Opened))
		t.field("Outcome", i.Outcome)
	}
	t.section("Story:", entryLines(i.Ledger))
	t.section("Guards, as last asked:", e.guardLines(i.Guards))
}
