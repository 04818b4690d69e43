// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newAgentCmd is `holdfast agent`: which workers agents are linked to.
func newAgentCmd(e *env) *cobra.Command {
	return group("agent", "See which workers agents are linked to, and move them",
		"Every agent has a list of workers, sorted as the setting agent.lb.algorithm says. It links to the first of them that it reaches and looks every\n"+
			"agent.lb.check.interval whether it should move back. The worker that holds the link carries frames to the one that owns the host.",
		`  holdfast agent list
  holdfast agent links

  # what another algorithm would mean, then set it
  holdfast plan lb --algorithm roundrobin
  holdfast settings set agent.lb.algorithm roundrobin

  # not to wait for the next look
  holdfast agent rebalance`,
		newAgentListCmd(e), newAgentLinksCmd(e), newAgentRebalanceCmd(e))
}

var agentsTable = print.Table[v1.Agent]{
	Kind: "agent", Plural: "agents",
	Name: func(a v1.Agent) string { return a.Host },
	Columns: []print.Column[v1.Agent]{
		{Name: "HOST", Value: func(a v1.Agent) any { return a.Host }},
		{Name: "OWNER", Value: func(a v1.Agent) any { return a.Owner }},
		{Name: "CARRIER", Value: func(a v1.Agent) any { return a.Carrier }},
		{Name: "MOVES TO", Value: func(a v1.Agent) any { return a.Moves }},
		{Name: "ALGORITHM", Value: func(a v1.Agent) any { return a.Algorithm }},
		{Name: "WORKERS", Value: func(a v1.Agent) any { return strings.Join(a.Workers, ",") }},
	},
}

func newAgentListCmd(e *env) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: "list", Short: "List agents with their owner, the worker that carries their link, and their list", Args: cobra.NoArgs,
		Long: "Lists every host's agent: who owns the host, who holds its link, and the workers that it links to, the preferred one first.\n" +
			"An agent whose link is not at the first of them moves there when it looks next.",
		Example: "  holdfast agent list\n  holdfast agent list -o json\n  holdfast agent list -o wide",
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, _ []string) error {
		all, err := api.Agents(ctx, "")
		if err != nil {
			return err
		}
		return agentsTable.List(e.Stdout, e.Stderr, o, all)
	})
	out.registerFormat(c)
	return c
}

// workerLinks is how agents are spread over one worker.
type workerLinks struct {
	Worker    string `json:"worker"`
	Owns      int    `json:"owns"`      // hosts
	Carries   int    `json:"carries"`   // links, of any host
	Relays    int    `json:"relays"`    // of them, to owners elsewhere
	Preferred int    `json:"preferred"` // agents that have it first on their list
	Leave     int    `json:"leave"`     // links that move away at the next look
}

// linksOf counts agents by worker.
func linksOf(all []v1.Agent) []workerLinks {
	by := map[string]*workerLinks{}
	at := func(id string) *workerLinks {
		if by[id] == nil {
			by[id] = &workerLinks{Worker: id}
		}
		return by[id]
	}
	for _, a := range all {
		for _, id := range a.Workers {
			at(id)
		}
		if a.Owner != "" {
			at(a.Owner).Owns++
		}
		if a.Carrier != "" {
			c := at(a.Carrier)
			c.Carries++
			if a.Carrier != a.Owner {
				c.Relays++
			}
			if a.Moves != "" {
				c.Leave++
			}
		}
		if len(a.Workers) > 0 {
			at(a.Workers[0]).Preferred++
		}
	}
	var out []workerLinks
	for _, w := range by {
		out = append(out, *w)
	}
	slices.SortFunc(out, func(a, b workerLinks) int { return cmp.Compare(a.Worker, b.Worker) })
	return out
}

var linksTable = print.Table[workerLinks]{
	Kind: "worker", Plural: "workers",
	Name: func(w workerLinks) string { return w.Worker },
	Columns: []print.Column[workerLinks]{
		{Name: "WORKER", Value: func(w workerLinks) any { return w.Worker }},
		{Name: "OWNS", Value: func(w workerLinks) any { return w.Owns }},
		{Name: "CARRIES", Value: func(w workerLinks) any { return w.Carries }},
		{Name: "RELAYS", Value: func(w workerLinks) any { return w.Relays }},
		{Name: "PREFERRED", Value: func(w workerLinks) any { return w.Preferred }},
		{Name: "LEAVE", Value: func(w workerLinks) any { return w.Leave }},
	},
}

func newAgentLinksCmd(e *env) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: "links", Short: "Count the links of each worker", Args: cobra.NoArgs,
		Long: "Counts for each worker the hosts that it owns, the links that it carries, those of them that it relays to owners elsewhere,\n" +
			"the agents that prefer it, and the links that will leave it when their agents look next. All of it is what is on record in etcd.",
		Example: "  holdfast agent links\n  holdfast agent links -o json\n  holdfast agent links --request-timeout 1m",
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, _ []string) error {
		all, err := api.Agents(ctx, "")
		if err != nil {
			return err
		}
		return linksTable.List(e.Stdout, e.Stderr, o, linksOf(all))
	})
	out.registerFormat(c)
	return c
}

// rebalancePace is the time between two agents that are asked to move.
const rebalancePace = 20 * time.Millisecond

func newAgentRebalanceCmd(e *env) *cobra.Command {
	var out outputFlags
	var dry bool
	c := &cobra.Command{
		Use: "rebalance [HOST...]", Short: "Ask agents to move to their preferred worker now",
		Long: "Asks agents that are not linked to the first worker of their list to move there now, instead of when they look next: all of them, or some.\n" +
			"Each opens its new link before it closes the old one; no ping is missed and nothing that runs is disturbed.",
		Example:           "  holdfast agent rebalance --dry-run\n  holdfast agent rebalance\n  holdfast agent rebalance h-17 h-18",
		ValidArgsFunction: e.completeHosts,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, args []string) error {
		all, err := api.Agents(ctx, "")
		if err != nil {
			return err
		}
		for _, id := range args {
			if !slices.ContainsFunc(all, func(a v1.Agent) bool { return a.Host == id }) {
				return fmt.Errorf("rebalance %s: no such host", id)
			}
		}
		all = slices.DeleteFunc(all, func(a v1.Agent) bool {
			return a.Moves == "" || len(args) > 0 && !slices.Contains(args, a.Host)
		})
		if dry {
			return agentsTable.List(e.Stdout, e.Stderr, o, all)
		}
		tick := time.NewTicker(rebalancePace)
		defer tick.Stop()
		var errs []error
		var asked []v1.Agent
		for _, a := range all {
			if a, err = api.RebalanceAgent(ctx, a.Host); err != nil {
				errs = append(errs, err)
			} else {
				asked = append(asked, a)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return errors.Join(append([]error{agentsTable.List(e.Stdout, e.Stderr, o, asked)}, errs...)...)
	})
	out.registerFormat(c)
	c.Flags().BoolVar(&dry, "dry-run", false, "list who would be asked and do nothing")
	return c
}

// newPlanLBCmd is `holdfast plan lb`: what another algorithm would mean for agents.
func newPlanLBCmd(e *env) *cobra.Command {
	var out outputFlags
	var algorithm string
	c := &cobra.Command{
		Use: "lb", Short: "Show which agents would move under another algorithm", Args: cobra.NoArgs,
		Long:    "Lists the agents whose link would move if agent.lb.algorithm were set everywhere. Nothing is changed. Without --algorithm: who is to move now.",
		Example: "  holdfast plan lb --algorithm roundrobin\n  holdfast plan lb --algorithm static -o json\n  holdfast plan lb",
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, _ []string) error {
		all, err := api.Agents(ctx, algorithm)
		if err != nil {
			return err
		}
		n := len(all)
		all = slices.DeleteFunc(all, func(a v1.Agent) bool { return a.Moves == "" })
		if err := agentsTable.List(e.Stdout, e.Stderr, o, all); err != nil || !o.Format.Tabular() {
			return err
		}
		_, err = fmt.Fprintf(e.Stdout, "\n%d of %d agents would move.\n", len(all), n)
		return err
	})
	out.registerFormat(c)
	c.Flags().StringVar(&algorithm, "algorithm", "", "ring, static, roundrobin or shuffle")
	return c
}
