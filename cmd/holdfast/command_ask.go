// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// commandFlags are those of every verb that asks for a command.
type commandFlags struct {
	r       v1.CommandRequest
	wait    bool
	dry     bool
	timeout time.Duration
}

func (f *commandFlags) register(e *env, c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.r.Key, "key", "", "idempotency key: the same key again is the same command (default: a new one)")
	fl.StringVar(&f.r.Deadline, "deadline", "", "cancel it after this long, such as 2h")
	fl.Int64Var(&f.r.Rate, "rate", 0, "bytes per second at most; 0 is no bound")
	fl.StringVar(&f.r.Reason, "reason", "", "why, for the log")
	fl.BoolVar(&f.dry, "dry-run", false, "have everything checked and print what would be moved or copied, do nothing")
	fl.BoolVar(&f.wait, "wait", false, "wait for its end, with a progress bar; interrupting that changes nothing")
	fl.DurationVar(&f.timeout, "timeout", 0, "how long to wait at most; 0 is for ever")
}

// askFor asks for a command and, if wanted, waits for its end.
func (e *env) askFor(ctx context.Context, f commandFlags) error {
	if f.timeout < 0 || f.timeout > 0 && !f.wait {
		return usage(errors.New("timeout: allowed is a duration above 0, together with --wait"))
	}
	if f.dry && f.wait {
		return usage(errors.New("wait: allowed without --dry-run, which leaves nothing to wait for"))
	}
	if f.r.Key == "" {
		f.r.Key = uuid.NewString() // a lost answer is asked for again, and never done twice
	}
	api, err := e.client()
	if err != nil {
		return err
	}
	if f.dry {
		c, err := api.NewCommand(v1.WithDryRun(ctx, nil), f.r)
		if err != nil {
			return err
		}
		fmt.Fprintln(e.Stderr, "dry run, nothing is done; it would be:")
		_, err = fmt.Fprintf(e.Stdout, "%s by host %s\n", c.Kind, c.Host)
		for _, i := range c.Items {
			if err == nil {
				_, err = fmt.Fprintf(e.Stdout, "  %s from %s to %s\n", i.Volume, i.From, i.To)
			}
		}
		return err
	}
	c, err := api.NewCommand(ctx, f.r)
	var p *v1.Problem
	if errors.As(err, &p) && p.Code == v1.CodeUnknownOutcome {
		c, err = api.NewCommand(ctx, f.r)
	}
	if err != nil {
		return err
	}
	if !f.wait {
		_, err := fmt.Fprintf(e.Stdout, "command/%s %s: %s\n", c.ID, c.State, c.Reason)
		return err
	}
	return e.follow(ctx, api, c, f.timeout)
}

// follow shows a command until it has ended.
func (e *env) follow(ctx context.Context, api *v1.Client, c v1.Command, timeout time.Duration) error {
	id := c.ID
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	tty := e.IsTTY(e.Stderr)
	tick := time.NewTicker(waitPoll)
	defer tick.Stop()
	last := ""
	for {
		if tty {
			line := c.State
			if c.Progress != nil {
				line += " " + bar(*c.Progress, 30)
			}
			fmt.Fprintf(e.Stderr, "\r\x1b[K%s", line)
		} else if c.State != last {
			fmt.Fprintf(e.Stderr, "%s: %s\n", c.State, c.Reason)
		}
		last = c.State
		if c.Outcome != nil && c.Ended || c.State == "NEEDS_OPERATOR" {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if tty {
				fmt.Fprintln(e.Stderr)
			}
			return &exitError{fmt.Errorf("command %s is still %s: %s", id, c.State, c.Reason), exitTimeout}
		}
		now, err := api.Command(ctx, id)
		var p *v1.Problem
		switch {
		case err == nil:
			c = now
		case errors.As(err, &p) && !p.Away():
			return err
		}
	}
	if tty {
		fmt.Fprintln(e.Stderr)
	}
	switch {
	case c.State == "NEEDS_OPERATOR":
		return &hintError{fmt.Errorf("command %s needs an operator: %s", id, c.Reason), "holdfast command explain " + id}
	case !c.Outcome.Done:
		return &hintError{fmt.Errorf("command %s failed: %s", id, c.Outcome.Why), "holdfast command show " + id}
	}
	_, err := fmt.Fprintf(e.Stdout, "command/%s %s: %s\n", id, c.State, c.Outcome.Why)
	return err
}

// newVolumeCmd is `holdfast volume`.
func newVolumeCmd(e *env) *cobra.Command {
	return group("volume", "Copy and migrate volumes",
		"Copies a volume into a new one, or moves it to another pool. It moves under its running instance, which goes on, or as a file.",
		`  holdfast volume copy v7 --to pool-b --as v7-copy --wait
  holdfast volume migrate v7 --to pool-b --wait
  holdfast get volumes`,
		askCmd(e, "copy VOLUME --to POOL --as NAME", "Copy a volume into a new one",
			"Copies a volume that nobody writes to into a new volume. The copy has its name once it is complete; until then it is `creating`.",
			"  holdfast volume copy v7 --to pool-b --as v7-copy\n  holdfast volume copy v7 --to backup --as v7-monday --wait\n  holdfast volume copy v7 --to pool-b --as x --rate 100000000 --deadline 2h",
			completeResources[v1.Volume](e), func(f *commandFlags, name string) { f.r.Kind, f.r.Volume = "copy", name },
			func(c *cobra.Command, f *commandFlags) {
				toPool(e, c, f)
				c.Flags().StringVar(&f.r.As, "as", "", "name of the new volume")
				onHost(e, c, f)
			}),
		askCmd(e, "migrate VOLUME --to POOL", "Move a volume to another pool",
			"Moves a volume. Where its instance runs, that goes on meanwhile and turns over at once. The old file is deleted when it is certain that nobody uses it.",
			"  holdfast volume migrate v7 --to pool-b\n  holdfast volume migrate v7 --to pool-b --wait --timeout 1h\n  holdfast volume migrate v7 --to pool-b --key change-4711",
			completeResources[v1.Volume](e), func(f *commandFlags, name string) { f.r.Kind, f.r.Volume = "migrate-volume", name },
			func(c *cobra.Command, f *commandFlags) { toPool(e, c, f); onHost(e, c, f) }))
}

// newTemplateCmd is `holdfast template`.
func newTemplateCmd(e *env) *cobra.Command {
	return group("template", "Copy templates, and make volumes of them", "Copies a template to one more pool. With --as a volume is made of it there instead.",
		"  holdfast template copy debian-12 --to pool-b\n  holdfast template copy debian-12 --to pool-a --as v9 --wait\n  holdfast get templates",
		askCmd(e, "copy TEMPLATE --to POOL", "Copy a template, or make a volume of it",
			"Without --as the template gets one more copy on the pool. With --as a new volume is made there.",
			"  holdfast template copy debian-12 --to pool-b\n  holdfast template copy debian-12 --to pool-a --as v9 --wait\n  holdfast get templates",
			completeResources[v1.Template](e), func(f *commandFlags, name string) { f.r.Kind, f.r.Template = "copy", name },
			func(c *cobra.Command, f *commandFlags) {
				toPool(e, c, f)
				c.Flags().StringVar(&f.r.As, "as", "", "name of a new volume")
				onHost(e, c, f)
			}))
}

// newInstanceCmd is `holdfast instance`.
func newInstanceCmd(e *env) *cobra.Command {
	return group("instance", "Migrate instances", "Moves a running instance to another host. Its volumes stay where they are, or go along.",
		"  holdfast instance migrate i3 --to h-9 --wait\n  holdfast instance migrate i3 --to h-9 --with-volumes pool-b\n  holdfast get instances",
		askCmd(e, "migrate INSTANCE --to HOST", "Move a running instance to another host",
			"The instance goes on meanwhile. Its volumes stay on shared pools, or go along to a pool of the other host. A host that placement refuses for it is refused here too, with the reason.",
			"  holdfast instance migrate i3 --to h-9\n  holdfast instance migrate i3 --to h-9 --with-volumes pool-b --wait\n  holdfast instance migrate i3 --to h-9 --force --reason 'h-9 comes back today'",
			completeResources[v1.Instance](e), func(f *commandFlags, name string) { f.r.Kind, f.r.Instance = "migrate", name },
			func(c *cobra.Command, f *commandFlags) {
				c.Flags().StringVar(&f.r.Host, "to", "", "host it goes to")
				c.Flags().StringVar(&f.r.Pool, "with-volumes", "", "pool of that host that its volumes go to")
				c.Flags().BoolVar(&f.r.Force, "force", false, "also to a host that placement refuses")
				e.completeFlag(c, "to", e.completeHosts)
				e.completeFlag(c, "with-volumes", completeResources[v1.Pool](e))
			}))
}

func toPool(e *env, c *cobra.Command, f *commandFlags) {
	c.Flags().StringVar(&f.r.Pool, "to", "", "pool it goes to")
	e.completeFlag(c, "to", completeResources[v1.Pool](e))
}

func onHost(e *env, c *cobra.Command, f *commandFlags) {
	c.Flags().StringVar(&f.r.Host, "on", "", "host that does it (default: one that has both pools, and the fewest commands)")
	e.completeFlag(c, "on", e.completeHosts)
}

// askCmd is one verb that asks for a command about one named thing.
func askCmd(e *env, use, short, long, example string, names completer, set func(*commandFlags, string), flags func(*cobra.Command, *commandFlags)) *cobra.Command {
	var f commandFlags
	c := &cobra.Command{Use: use, Short: short, Long: long, Example: example, Args: cobra.ExactArgs(1), ValidArgsFunction: names}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		set(&f, args[0])
		return e.askFor(cmd.Context(), f)
	}
	flags(c, &f)
	f.register(e, c)
	return c
}
