// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newGetCmd is `holdfast get`: lists of everything.
func newGetCmd(e *env) *cobra.Command {
	return group("get", "List hosts, workers, partitions, areas, pools, volumes, templates, instances, commands, incidents, events or settings",
		"Lists things of one kind, or only those that are named. The table is for people, json and yaml are for programs and do not change.",
		`  # all hosts, and those that are not well
  holdfast get hosts
  holdfast get hosts --state SUSPECT,CHECKING,DEGRADED,FAILED -o wide

  # hosts of a pod in rack 7, as they change
  holdfast get hosts -p z1/p1 -l rack=7 -w

  # for a script
  holdfast get hosts -o jsonpath='{.items[*].spec.id}'
  holdfast get workers -o json`,
		append(getResources(e), newGetHostsCmd(e),
			newGetListCmd(e, workersTable, []string{"worker", "w"}, (*v1.Client).Workers),
			newGetListCmd(e, partitionsTable, []string{"partition", "p"}, (*v1.Client).Partitions),
			newGetListCmd(e, areasTable, []string{"area", "a"}, (*v1.Client).Areas),
			newGetIncidentsCmd(e), newGetEventsCmd(e), newSettingsListCmd(e, "settings", "setting"))...)
}

// newGetHostsCmd is `holdfast get hosts`.
func newGetHostsCmd(e *env) *cobra.Command {
	var out outputFlags
	var q v1.HostQuery
	var watch, labels bool
	c := &cobra.Command{
		Use: "hosts [HOST…]", Aliases: []string{"host", "h"}, Short: "List hosts",
		Long: "Lists hosts with HA state, power, partition and owner. With -w it goes on with each change until interrupted.",
		Example: `  holdfast get hosts
  holdfast get h -p z1/p1/c1 -l 'rack in (7,8)' -o wide
  holdfast get hosts --state SUSPECT -w -o json`,
		ValidArgsFunction: e.completeHosts,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, names []string) error {
		table := hostsTable(labels)
		if len(names) == 1 && !watch {
			h, err := api.Host(ctx, names[0])
			if err != nil {
				return err
			}
			return table.One(e.Stdout, e.Stderr, o, h)
		}
		if watch {
			return watchHosts(ctx, e, api, table, o, q, names)
		}
		hosts, err := api.Hosts(ctx, q)
		if err != nil {
			return err
		}
		if hosts, err = pick(hosts, table.Kind, table.Name, names); err != nil {
			return err
		}
		return printError(table.List(e.Stdout, e.Stderr, o, hosts))
	})
	out.register(c)
	f := c.Flags()
	f.StringVarP(&q.Partition, "partition", "p", "", "only hosts of this partition and below it")
	f.StringVarP(&q.Labels, "selector", "l", "", "only hosts with these labels: a=b,c!=d,e in (x,y)")
	f.StringSliceVar(&q.States, "state", nil, "only hosts in these HA states")
	f.BoolVarP(&watch, "watch", "w", false, "go on with each change")
	f.BoolVar(&labels, "show-labels", false, "show labels")
	e.completeFlag(c, "partition", e.completePartitions)
	e.completeFlag(c, "state", cobra.FixedCompletions(v1.HostStates, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func watchHosts(ctx context.Context, e *env, api *v1.Client, table print.Table[v1.Host], o print.Options, q v1.HostQuery, names []string) error {
	s := table.Stream(e.Stdout, o)
	hosts, err := api.Hosts(ctx, q)
	if err != nil {
		return err
	}
	if hosts, err = pick(hosts, table.Kind, table.Name, names); err != nil {
		return err
	}
	if err := s.Start(hosts); err != nil {
		return printError(err)
	}
	return api.WatchHosts(ctx, q, func(h v1.Host) error {
		if len(names) > 0 && !slices.Contains(names, h.Spec.ID) {
			return nil
		}
		return s.Row(e.Now(), h)
	})
}

// printError marks a --sort-by that names nothing as a usage error.
func printError(err error) error {
	if err != nil && strings.HasPrefix(err.Error(), "sort-by: ") {
		return usage(err)
	}
	return err
}

// pick keeps the named items, in the order of the names; none: all.
func pick[T any](items []T, kind string, name func(T) string, names []string) ([]T, error) {
	if len(names) == 0 {
		return items, nil
	}
	var out []T
	for _, n := range names {
		i := slices.IndexFunc(items, func(item T) bool { return name(item) == n })
		if i < 0 {
			return nil, &exitError{errors.New(kind + " " + n + ": not found"), exitNotFound}
		}
		out = append(out, items[i])
	}
	return out, nil
}

// newGetListCmd is a list without filters of its own.
func newGetListCmd[T any](e *env, table print.Table[T], aliases []string, list func(*v1.Client, context.Context) ([]T, error)) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: table.Plural + " [NAME…]", Aliases: aliases, Short: "List " + table.Plural,
		Long: "Lists " + table.Plural + ". With names it lists only those, and fails if one of them is not there.",
		Example: "  holdfast get " + table.Plural + "\n  holdfast get " + table.Plural + " -o wide --sort-by age\n  holdfast get " +
			table.Plural + " -o json",
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return complete(e, cmd, list, table.Name)
		},
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, names []string) error {
		items, err := list(api, ctx)
		if err != nil {
			return err
		}
		if items, err = pick(items, table.Kind, table.Name, names); err != nil {
			return err
		}
		if len(names) == 1 {
			return table.One(e.Stdout, e.Stderr, o, items[0])
		}
		return printError(table.List(e.Stdout, e.Stderr, o, items))
	})
	out.register(c)
	return c
}

// newGetIncidentsCmd is `holdfast get incidents`.
func newGetIncidentsCmd(e *env) *cobra.Command {
	var out outputFlags
	var host string
	var open bool
	c := &cobra.Command{
		Use: "incidents [ID…]", Aliases: []string{"incident", "i"}, Short: "List incidents, newest first",
		Long: "An incident is one episode of suspicion of one host, with its evidence, guards, actions and outcome. The story of one is in `holdfast describe incident`.",
		Example: `  holdfast get incidents
  holdfast get incidents --host h-17
  holdfast get incidents --open -o name`,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, names []string) error {
		if len(names) == 1 {
			i, err := api.Incident(ctx, names[0])
			if err != nil {
				return err
			}
			return incidentsTable.One(e.Stdout, e.Stderr, o, i)
		}
		items, err := api.Incidents(ctx, host)
		if err != nil {
			return err
		}
		if items, err = pick(items, incidentsTable.Kind, incidentsTable.Name, names); err != nil {
			return err
		}
		if open {
			items = slices.DeleteFunc(items, func(i v1.Incident) bool { return !i.Ended.IsZero() })
		}
		return printError(incidentsTable.List(e.Stdout, e.Stderr, o, items))
	})
	out.register(c)
	c.Flags().StringVar(&host, "host", "", "only incidents of this host")
	c.Flags().BoolVar(&open, "open", false, "only those that have not ended")
	e.completeFlag(c, "host", e.completeHosts)
	return c
}

// eventFlags select events and say how they are shown.
type eventFlags struct {
	out   outputFlags
	q     v1.EventQuery
	since time.Duration
	last  int
	watch bool
}

func (f *eventFlags) register(e *env, c *cobra.Command) {
	f.out.register(c)
	fl := c.Flags()
	fl.StringVar(&f.q.Host, "host", "", "only events of this host")
	fl.StringVarP(&f.q.Partition, "partition", "p", "", "only events of this partition and below it")
	fl.StringVar(&f.q.Type, "type", "", "only events of this type")
	fl.StringVar(&f.q.Severity, "severity", "", "only events of this severity: info, warning, page")
	fl.DurationVar(&f.since, "since", 0, "only events of this last while, such as 2h")
	fl.IntVar(&f.last, "last", 0, "only this many of the newest (with -w: 20 before going on)")
	fl.BoolVarP(&f.watch, "watch", "w", false, "go on with each new event")
	e.completeFlag(c, "host", e.completeHosts)
	e.completeFlag(c, "partition", e.completePartitions)
	e.completeFlag(c, "severity", cobra.FixedCompletions(v1.Severities, cobra.ShellCompDirectiveNoFileComp))
}

// newGetEventsCmd is `holdfast get events`; `holdfast events` is the same.
func newGetEventsCmd(e *env) *cobra.Command {
	c := newEventsCmd(e)
	c.Aliases = []string{"event", "e"}
	return c
}

// newEventsCmd is `holdfast events`.
func newEventsCmd(e *env) *cobra.Command {
	var f eventFlags
	c := &cobra.Command{
		Use: "events", Short: "Show what happened, and with -w what happens",
		Long: "Lists the event log, oldest first. With -w it goes on with each new event, also over the loss of a worker: none is lost, none comes twice.",
		Example: `  # what happens now
  holdfast events -w

  # the story of one host in the last two hours
  holdfast events --host h-17 --since 2h

  # everything that paged somebody
  holdfast events --severity page -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return showEvents(cmd.Context(), e, f) },
	}
	f.register(e, c)
	return c
}

func showEvents(ctx context.Context, e *env, f eventFlags) error {
	o, err := f.out.options(e)
	if err != nil {
		return err
	}
	if f.last < 0 {
		return usage(errors.New("last: allowed is a number from 0"))
	}
	if f.since < 0 {
		return usage(errors.New("since: allowed is a duration from 0"))
	}
	if f.since > 0 {
		f.q.Since = e.Now().Add(-f.since)
	}
	api, err := e.client()
	if err != nil {
		return err
	}
	events, err := api.Events(ctx, f.q)
	if err != nil {
		return err
	}
	if len(events) > 0 {
		f.q.After = max(f.q.After, events[len(events)-1].Revision)
	}
	if f.watch && f.last == 0 && f.since == 0 {
		f.last = 20
	}
	if f.last > 0 && len(events) > f.last {
		events = events[len(events)-f.last:]
	}
	if !f.watch {
		return printError(eventsTable.List(e.Stdout, e.Stderr, o, events))
	}
	s := eventsTable.Stream(e.Stdout, o)
	if o.Format.Tabular() {
		err = s.Start(events)
	} else {
		for _, x := range events {
			if err = s.Row(e.Now(), x); err != nil {
				break
			}
		}
	}
	if err != nil {
		return printError(err)
	}
	return api.WatchEvents(ctx, f.q, func(x v1.Event) error { return s.Row(e.Now(), x) })
}
