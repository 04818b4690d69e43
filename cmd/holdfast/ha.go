// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newHACmd is `holdfast ha`: is HA wanted, and may it act.
func newHACmd(e *env) *cobra.Command {
	return group("ha", "Say where HA is wanted and where it may act",
		"`enable` and `disable` say whether HA is wanted somewhere; `arm` and `disarm` say whether it may act there now.\nA disarmed fleet is watched as before and everything that would be done is shown.",
		`  # hands off for two hours while the switches are exchanged
  holdfast ha disarm pod/z1/p1 --for 2h --reason 'new switches'
  holdfast ha arm pod/z1/p1

  # no HA in this cluster
  holdfast ha disable cluster/z1/p1/c1 --reason 'test hardware'

  # how many power-downs are left
  holdfast ha budget

  # another try at a host that is FAILED
  holdfast ha retry h-17`,
		newHAWantedCmd(e, "enable", true), newHAWantedCmd(e, "disable", false),
		newArmCmd(e, "arm", true), newArmCmd(e, "disarm", false), newBudgetCmd(e), newRetryCmd(e))
}

// splitScope reads zone/…, pod/…, cluster/… or host/… for the switches that live on a
// partition or a host.
func splitScope(s string) (kind, name string, err error) {
	depth := map[string]int{"zone": 1, "pod": 2, "cluster": 3, "host": 1}
	kind, name, _ = strings.Cut(s, "/")
	if n := depth[kind]; n == 0 || len(strings.Split(name, "/")) != n || name == "" || strings.Contains("/"+name+"/", "//") {
		return "", "", usage(fmt.Errorf("scope: %q, allowed are zone/<zone>, pod/<zone>/<pod>, cluster/<zone>/<pod>/<cluster>, host/<host>", s))
	}
	return kind, name, nil
}

// newHAWantedCmd is `ha enable` and `ha disable`. The latter leaves hosts without
// protection, so that it shows its plan and asks.
func newHAWantedCmd(e *env, use string, on bool) *cobra.Command {
	var s safety
	var out outputFlags
	var reason string
	c := &cobra.Command{
		Use: use + " SCOPE", Short: strings.ToUpper(use[:1]) + use[1:] + " HA for a zone, pod, cluster or host", Args: cobra.ExactArgs(1),
		Long:              "Says whether HA is wanted at a scope: zone/…, pod/…, cluster/… or host/…. HA works where it is wanted at every level.",
		Example:           fmt.Sprintf("  holdfast ha %[1]s cluster/z1/p1/c1\n  holdfast ha %[1]s zone/z1 --reason 'as agreed'\n  holdfast ha %[1]s host/h-17 --dry-run", use),
		ValidArgsFunction: e.completeScopes,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, args []string) error {
		kind, name, err := splitScope(args[0])
		if err != nil {
			return err
		}
		what := "ha " + use + " " + args[0]
		if !on || s.dry {
			plan, err := haPlan(ctx, api, kind, name, on)
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			if meant, err := e.planned(ctx, s, o, plan, what, name); !meant {
				return err
			}
		}
		sw := v1.Switch{On: on, Reason: reason}
		if kind == "host" {
			h, err := api.SetHost(ctx, name, "ha", sw)
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			return e.show(o, h, func(t *text) { t.printf("host %s: HA %sd; it is %s\n", name, use, e.state(h.Status.State)) })
		}
		p, err := api.SetPartition(ctx, name, "ha", sw)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return e.show(o, p, func(t *text) { t.printf("%s %s: HA %sd; it is %s\n", kind, name, use, e.state(p.State)) })
	})
	out.registerFormat(c)
	s.register(c)
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}

// haPlan says what a switch of HA means for the hosts below it, from what they are now.
func haPlan(ctx context.Context, api *v1.Client, kind, name string, on bool) (v1.Plan, error) {
	plan := v1.Plan{Host: kind + "/" + name, Verb: "ha " + map[bool]string{true: "enable", false: "disable"}[on]}
	if kind == "host" {
		h, err := api.Host(ctx, name)
		if err != nil {
			return plan, err
		}
		plan.Instances = h.Status.Instances
		if on {
			plan.Will = []string{fmt.Sprintf("protect host %s again, which is %s", name, h.Status.State)}
		} else {
			plan.Will = []string{fmt.Sprintf("leave host %s without protection: it is %s and becomes INELIGIBLE", name, h.Status.State)}
		}
		if !on && h.Status.Incident != "" {
			plan.Warnings = []string{"its open incident " + h.Status.Incident + " ends, or finishes what it has begun"}
		}
		return plan, nil
	}
	p, err := api.Partition(ctx, name)
	if err != nil {
		return plan, err
	}
	if on {
		plan.Will = []string{fmt.Sprintf("protect %d hosts of %s %s where HA is enabled at the other levels too", p.Hosts, kind, name)}
		return plan, nil
	}
	plan.Will = []string{fmt.Sprintf("leave %d hosts of %s %s without protection: they become NONE", p.Hosts, kind, name)}
	if n := p.States["RECOVERING"] + p.States["FENCING"]; n > 0 {
		plan.Warnings = []string{fmt.Sprintf("%d hosts are being recovered or fenced: an action whose packet was sent ends safely, others are held", n)}
	}
	return plan, nil
}

func newArmCmd(e *env, use string, on bool) *cobra.Command {
	var out outputFlags
	var r v1.ArmRequest
	c := &cobra.Command{
		Use: use + " [SCOPE]", Short: strings.ToUpper(use[:1]) + use[1:] + " HA, for everything or at a scope", Args: cobra.MaximumNArgs(1),
		Long:              "Says whether automation may act at a scope: global (the default), zone/…, pod/…, cluster/… or host/…. Checks and events go on either way; running actions end safely.",
		Example:           fmt.Sprintf("  holdfast ha %[1]s\n  holdfast ha %[1]s pod/z1/p1 --reason 'new switches'\n  holdfast ha %[1]s host/h-17 -o json", use),
		ValidArgsFunction: e.completeScopes,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := out.options(e)
		if err != nil {
			return err
		}
		r.Scope = "global"
		if len(args) == 1 && args[0] != "global" {
			if _, _, err := splitScope(args[0]); err != nil {
				return err
			}
			r.Scope = args[0]
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		call := api.Disarm
		if on {
			call = api.Arm
		}
		s, err := call(cmd.Context(), r)
		if err != nil {
			return fmt.Errorf("ha %s %s: %w", use, r.Scope, err)
		}
		return e.show(o, s, func(t *text) {
			t.printf("%s: %sed", r.Scope, use)
			if !s.Expires.IsZero() {
				t.printf(" until %s", print.Exact(s.Expires))
			}
			t.printf("\n")
		})
	}
	out.registerFormat(c)
	c.Flags().StringVar(&r.Reason, "reason", "", "why, for the record")
	if !on {
		c.Flags().StringVar(&r.For, "for", "", "how long, such as 2h; without it until armed again")
	}
	e.tryable(c)
	return c
}

func newRetryCmd(e *env) *cobra.Command {
	var out outputFlags
	var s safety
	var reason string
	c := &cobra.Command{
		Use: "retry HOST", Short: "Let HA try again at a host that is FAILED", Args: cobra.ExactArgs(1),
		Long:              "Opens a new incident for a host whose recovery or fencing failed. Everything is asked again from the beginning: checks, guards, budget.",
		Example:           "  holdfast ha retry h-17\n  holdfast ha retry h-17 --dry-run\n  holdfast ha retry h-17 --reason 'BMC restarted'",
		ValidArgsFunction: e.completeHosts,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return e.order(cmd.Context(), out, s, false, args[0], v1.OrderRequest{Verb: "retry", Reason: reason})
	}
	out.registerFormat(c)
	c.Flags().BoolVar(&s.dry, "dry-run", false, "print what would be done and do nothing")
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}

// scopeOfPath is the scope of a partition: z1/p1 is pod/z1/p1.
func scopeOfPath(path string) string {
	return [...]string{"zone/", "pod/", "cluster/"}[min(strings.Count(path, "/"), 2)] + path
}
