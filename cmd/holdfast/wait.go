// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// waitPoll is how often a wait looks again.
const waitPoll = 300 * time.Millisecond

// condition is a parsed --for.
type condition struct {
	field  string
	values []string
}

func (c condition) String() string { return c.field + "=" + strings.Join(c.values, ",") }

func (c condition) holds(fields map[string]string) bool {
	return slices.ContainsFunc(c.values, func(v string) bool { return strings.EqualFold(v, fields[c.field]) })
}

func parseCondition(s string) (condition, error) {
	field, value, ok := strings.Cut(s, "=")
	if !ok || value == "" || !slices.Contains([]string{"state", "power", "boot", "owner"}, field) {
		return condition{}, usage(fmt.Errorf("for: %q, allowed are state=…, power=…, boot=…, owner=…; several values with commas", s))
	}
	c := condition{field, strings.Split(value, ",")}
	for _, v := range c.values { // a slip would wait for what never comes
		if all := conditions[field]; all != nil && !slices.Contains(all, strings.ToUpper(v)) {
			return condition{}, usage(fmt.Errorf("for: %s=%q, allowed are %s", field, v, strings.Join(all, ", ")))
		}
	}
	return c, nil
}

// conditions are the values of the fields that have few.
var conditions = map[string][]string{
	"state": append(slices.Clone(v1.HostStates), "ACTIVE", "INACTIVE"), // of hosts, of partitions
	"power": {"ON", "OFF", "UNKNOWN"},
}

// newWaitCmd is `holdfast wait`.
func newWaitCmd(e *env) *cobra.Command {
	var cond, selector, partition string
	var timeout time.Duration
	c := &cobra.Command{
		Use: "wait host/HOST…|partition/PATH…|hosts", Short: "Wait until hosts or partitions are in a state",
		Long: "Waits until every named host or partition, or with `hosts` every selected host, meets the condition; exit code 6 when the time is over.\nIt lives through the loss of a worker; interrupting it changes nothing.",
		Example: `  holdfast wait host/h-17 --for state=AVAILABLE --timeout 10m
  holdfast wait host/h-17 --for power=OFF
  holdfast wait partition/z1/p1/c1 --for state=ACTIVE
  holdfast wait hosts -p z1/p1 --for state=AVAILABLE,INELIGIBLE --timeout 2m`,
		Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			hosts, d := e.completeHosts(cmd, args, word)
			for i := range hosts {
				hosts[i] = "host/" + hosts[i]
			}
			return append(hosts, "hosts"), d
		},
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		want, err := parseCondition(cond)
		if err != nil {
			return err
		}
		var looks []look
		for _, a := range args {
			l, err := lookAt(a, v1.HostQuery{Partition: partition, Labels: selector})
			if err != nil {
				return err
			}
			looks = append(looks, l)
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		return e.wait(cmd.Context(), api, looks, want, timeout)
	}
	f := c.Flags()
	f.StringVar(&cond, "for", "state=AVAILABLE", "condition: state=…, power=…, boot=…, owner=…")
	f.DurationVar(&timeout, "timeout", 5*time.Minute, "longest wait; 0 looks once")
	f.StringVarP(&partition, "partition", "p", "", "with hosts: only those of this partition and below it")
	f.StringVarP(&selector, "selector", "l", "", "with hosts: only those with these labels")
	e.completeFlag(c, "partition", e.completePartitions)
	return c
}

// look reads the things that one argument names: name to fields.
type look func(context.Context, *v1.Client) (map[string]map[string]string, error)

func lookAt(arg string, q v1.HostQuery) (look, error) {
	kind, name, _ := strings.Cut(arg, "/")
	switch {
	case arg == "hosts":
		return func(ctx context.Context, api *v1.Client) (map[string]map[string]string, error) {
			hosts, err := api.Hosts(ctx, q)
			out := map[string]map[string]string{}
			for _, h := range hosts {
				out["host/"+h.Spec.ID] = hostFields(h)
			}
			return out, err
		}, nil
	case slices.Contains([]string{"host", "hosts", "h"}, kind) && name != "":
		return func(ctx context.Context, api *v1.Client) (map[string]map[string]string, error) {
			h, err := api.Host(ctx, name)
			return map[string]map[string]string{"host/" + name: hostFields(h)}, err
		}, nil
	case slices.Contains([]string{"partition", "partitions", "p"}, kind) && name != "":
		return func(ctx context.Context, api *v1.Client) (map[string]map[string]string, error) {
			p, err := api.Partition(ctx, name)
			return map[string]map[string]string{"partition/" + name: {"state": p.State, "owner": p.Owner}}, err
		}, nil
	}
	return nil, usage(fmt.Errorf("wait: %q, allowed are host/HOST, partition/PATH and hosts", arg))
}

func hostFields(h v1.Host) map[string]string {
	s := h.Status
	return map[string]string{"state": s.State, "power": s.Power, "boot": s.Boot, "owner": s.Owner}
}

// wait looks until all is as wanted. A fleet that does not answer is waited for too; a
// thing that is not there is not.
func (e *env) wait(ctx context.Context, api *v1.Client, looks []look, want condition, timeout time.Duration) error {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(waitPoll)
	defer tick.Stop()
	done := map[string]bool{}
	for {
		pending, err := e.lookAll(ctx, api, looks, want, done)
		var p *v1.Problem
		if err != nil && (!errors.As(err, &p) || !p.Away()) {
			return err
		}
		if err == nil && pending == "" {
			return nil
		}
		if err != nil {
			pending = err.Error()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return &exitError{fmt.Errorf("wait for %s: timed out after %v: %s", want, timeout, pending), exitTimeout}
		case <-tick.C:
		}
	}
}

// lookAll reports each thing once as it gets there, and says what is still missing.
func (e *env) lookAll(ctx context.Context, api *v1.Client, looks []look, want condition, done map[string]bool) (string, error) {
	missing, example, total := 0, "", 0
	for _, l := range looks {
		things, err := l(ctx, api)
		if err != nil {
			return "", err
		}
		for _, name := range slices.Sorted(maps.Keys(things)) {
			fields := things[name]
			total++
			if !want.holds(fields) {
				missing++
				example = fmt.Sprintf("%s has %s=%s", name, want.field, fields[want.field])
				continue
			}
			if !done[name] {
				done[name] = true
				if _, err := fmt.Fprintf(e.Stdout, "%s %s=%s\n", name, want.field, fields[want.field]); err != nil {
					return "", err
				}
			}
		}
	}
	switch {
	case total == 0:
		return "no host is selected", nil
	case missing > 1:
		return fmt.Sprintf("%d of %d not yet, e.g. %s", missing, total, example), nil
	}
	return example, nil
}
