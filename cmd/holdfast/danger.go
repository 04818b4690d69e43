// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// safety are the flags of a dangerous verb.
type safety struct {
	yes, dry bool
}

func (s *safety) register(c *cobra.Command) {
	c.Flags().BoolVar(&s.dry, "dry-run", false, "print what would be done and do nothing")
	c.Flags().BoolVar(&s.yes, "yes", false, "do it without asking, for scripts")
}

// confirm asks for the name of what is at stake. Without a terminal and without --yes it
// refuses: a script must say that it means it.
func (e *env) confirm(ctx context.Context, s safety, what, name string) error {
	if s.yes {
		return nil
	}
	if !e.IsTTY(e.Stdin) {
		return &hintError{usage(fmt.Errorf("%s: not confirmed, nothing was done: this is no terminal and --yes was not given", what)),
			"look at the plan with --dry-run, then repeat with --yes"}
	}
	fmt.Fprintf(e.Stderr, "\nType %s to go on: ", name)
	typed := make(chan string, 1)
	// A blocked read of a terminal cannot be cancelled: after Ctrl-C this goroutine ends
	// with the process.
	go func() {
		line, _ := bufio.NewReader(e.Stdin).ReadString('\n') // an end of input is an empty answer
		typed <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(e.Stderr)
		return ctx.Err()
	case got := <-typed:
		if got != name {
			return fmt.Errorf("%s: not confirmed, nothing was done: typed %q instead of %q", what, got, name)
		}
	}
	return nil
}

// printPlan writes a plan as running text.
func (e *env) printPlan(t *text, p v1.Plan) {
	t.printf("Plan: %s %s\n", p.Verb, p.Host)
	t.section("It will:", p.Will)
	t.section("Careful:", p.Warnings)
	t.section(fmt.Sprintf("Instances on it (%d):", len(p.Instances)), p.Instances)
	var budgets []string
	for _, b := range p.Budgets {
		budgets = append(budgets, fmt.Sprintf("%s: %s", b.Scope, budgetText(&b)))
	}
	t.section("Power-down budgets used:", budgets)
	t.section("Guards:", e.guardLines(p.Guards))
}

// order gives an order: a dangerous one only after its plan was shown and confirmed.
func (e *env) order(ctx context.Context, out outputFlags, s safety, dangerous bool, host string, req v1.OrderRequest) error {
	what := req.Verb + " " + host
	if err := e.doOrder(ctx, out, s, dangerous, host, req); err != nil {
		var p *v1.Problem
		if errors.As(err, &p) && !strings.HasPrefix(p.Detail, what) {
			return fmt.Errorf("%s: %w", what, err)
		}
		return err
	}
	return nil
}

func (e *env) doOrder(ctx context.Context, out outputFlags, s safety, dangerous bool, host string, req v1.OrderRequest) error {
	o, err := out.options(e)
	if err != nil {
		return err
	}
	api, err := e.client()
	if err != nil {
		return err
	}
	if dangerous || s.dry {
		plan, err := api.PlanOrder(ctx, host, req)
		if err != nil {
			return err
		}
		if meant, err := e.planned(ctx, s, o, plan, req.Verb+" "+host, host); !meant {
			return err
		}
	}
	res, err := api.Order(ctx, host, req)
	if err != nil {
		return err
	}
	err = e.show(o, res, func(t *text) {
		for _, l := range res.Steps {
			t.printf("  %s\n", l)
		}
		t.printf("%s %s: %s\n", res.Verb, res.Host, res.Message)
	})
	if err == nil && res.Failed {
		return &exitError{fmt.Errorf("%s %s: not passed", req.Verb, host), exitUnhealthy}
	}
	return err
}
