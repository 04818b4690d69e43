// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

var commandsTable = print.Table[v1.Command]{
	Kind: "command", Plural: "commands",
	Name: func(c v1.Command) string { return c.ID },
	Columns: []print.Column[v1.Command]{
		{Name: "COMMAND", Value: func(c v1.Command) any { return c.ID }},
		{Name: "KIND", Value: func(c v1.Command) any { return c.Kind }},
		{Name: "STATE", Value: func(c v1.Command) any { return print.State(c.State) }},
		{Name: "OF", Value: func(c v1.Command) any { return commandSubject(c) }},
		{Name: "TO", Value: func(c v1.Command) any { return commandGoal(c) }},
		{Name: "HOST", Value: func(c v1.Command) any { return c.Host }},
		{Name: "AGE", Value: func(c v1.Command) any { return c.Created }},
		{Name: "ENDED", Value: func(c v1.Command) any { return yesNo(c.Ended) }},
		{Name: "BY", Wide: true, Value: func(c v1.Command) any { return c.By }},
		{Name: "REASON", Wide: true, Value: func(c v1.Command) any { return c.Reason }},
	},
}

func commandSubject(c v1.Command) string {
	if c.Instance != "" && c.Kind == "migrate" {
		return "instance/" + c.Instance
	}
	if len(c.Items) > 0 {
		return "volume/" + c.Items[0].Volume
	}
	return ""
}

func commandGoal(c v1.Command) string {
	if c.Target != "" && c.Kind == "migrate" {
		return "host/" + c.Target
	}
	if len(c.Items) > 0 {
		return "pool/" + c.Items[0].To.Pool
	}
	return ""
}

func allCommands(api *v1.Client, ctx context.Context) ([]v1.Command, error) {
	return api.Commands(ctx, v1.CommandQuery{})
}

func (e *env) completeCommands(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return complete(e, cmd, allCommands, commandsTable.Name)
}

// newCommandCmd is `holdfast command`.
func newCommandCmd(e *env) *cobra.Command {
	return group("command", "List, show and resolve copies and migrations",
		"A command is a copy of a volume or a migration of a volume or an instance. It is on record before anything is sent, and goes on whatever is lost meanwhile: links, agents, hosts, workers, etcd.\nWhat became of one that was interrupted is found out from what its hosts see; one that cannot be told waits for an operator.",
		`  holdfast command list --open
  holdfast command list --state NEEDS_OPERATOR
  holdfast command show 0198c1d2-7f6a-7c11-9a53-1f2e3d4c5b6a
  holdfast command resolve 0198c1d2-7f6a-7c11-9a53-1f2e3d4c5b6a --failed --reason 'both looked at by hand'`,
		newCommandListCmd(e),
		describeOne(e, "show", nil, e.completeCommands, func(cmd *cobra.Command, api *v1.Client, id string) (any, func(*text), error) {
			c, err := api.Command(cmd.Context(), id)
			return c, func(t *text) { e.describeCommand(t, c) }, err
		}),
		commandExplainCmd(e),
		commandOrderCmd(e, "cancel", "End a command where it can be ended", "Asks the agent to end its work. What comes of that is told like any other end: a move that is already done stays done."),
		commandOrderCmd(e, "reconcile", "Look now what became of a command", "Asks all hosts of an interrupted command what they see. All its attempts count anew."),
		commandResolveCmd(e))
}

func newCommandListCmd(e *env) *cobra.Command {
	var out outputFlags
	var q v1.CommandQuery
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List commands, oldest first", Args: cobra.NoArgs,
		Long: "Lists the commands that are kept on record: all that have not ended, and others for the time of the setting command.keep.",
		Example: `  holdfast command list --open
  holdfast command list --host h-17 -o wide
  holdfast command list --state NEEDS_OPERATOR -o name`,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, _ []string) error {
		items, err := api.Commands(ctx, q)
		if err != nil {
			return err
		}
		return printError(commandsTable.List(e.Stdout, e.Stderr, o, items))
	})
	out.register(c)
	c.Flags().StringVar(&q.Host, "host", "", "only commands of this host")
	c.Flags().StringVar(&q.State, "state", "", "only commands in this state")
	c.Flags().BoolVar(&q.Open, "open", false, "only those that have not ended")
	e.completeFlag(c, "host", e.completeHosts)
	e.completeFlag(c, "state", cobra.FixedCompletions(v1.CommandStates, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func commandExplainCmd(e *env) *cobra.Command {
	c := explainOne(e, "command", nil, e.completeCommands, (*v1.Client).ExplainCommand)
	c.Use = "explain COMMAND"
	c.Example = "  holdfast command explain COMMAND\n  holdfast command explain COMMAND -o json\n  holdfast command explain COMMAND -o jsonpath='{.why}'"
	return c
}

func commandOrderCmd(e *env, verb, short, long string) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: verb + " COMMAND", Short: short, Long: long, Args: cobra.ExactArgs(1), ValidArgsFunction: e.completeCommands,
		Example: fmt.Sprintf("  holdfast command %s COMMAND\n  holdfast command %s COMMAND --reason 'change 4711'\n  holdfast command show COMMAND", verb, verb),
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return e.orderCommand(cmd.Context(), args[0], verb, v1.CommandOrder{Reason: reason})
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the log")
	e.tryable(c)
	return c
}

func commandResolveCmd(e *env) *cobra.Command {
	var reason string
	var did, didNot bool
	c := &cobra.Command{
		Use: "resolve COMMAND --completed|--failed", Short: "State on your own responsibility what came of a command", Args: cobra.ExactArgs(1), ValidArgsFunction: e.completeCommands,
		Long: "Puts an outcome on record that the evidence does not show: with --completed the resources are where the command was to bring them, with --failed where they were. They take the next command then. No file is touched.",
		Example: `  holdfast command resolve COMMAND --failed --reason 'the copy was removed by hand'
  holdfast command resolve COMMAND --completed
  holdfast command explain COMMAND`,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if did == didNot {
			return usage(errors.New("completed, failed: exactly one of them is needed"))
		}
		return e.orderCommand(cmd.Context(), args[0], "resolve", v1.CommandOrder{Reason: reason, Completed: &did})
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the log")
	c.Flags().BoolVar(&did, "completed", false, "it did what was asked for")
	c.Flags().BoolVar(&didNot, "failed", false, "it did not, everything is where it was")
	e.tryable(c)
	return c
}

func (e *env) orderCommand(ctx context.Context, id, verb string, o v1.CommandOrder) error {
	api, err := e.client()
	if err != nil {
		return err
	}
	c, err := api.OrderCommand(ctx, id, verb, o)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.Stdout, "command/%s %s: %s\n", c.ID, c.State, c.Reason)
	return err
}

func (e *env) describeCommand(t *text, c v1.Command) {
	t.field("Command", c.ID)
	t.field("Kind", c.Kind)
	t.field("State", e.state(c.State)+sinceText(t, c.Since))
	t.field("Reason", c.Reason)
	t.field("Host", c.Host)
	t.field("Target", c.Target)
	t.field("Instance", c.Instance)
	t.field("Asked", t.at(c.Created)+" by "+c.By)
	if !c.Deadline.IsZero() {
		t.field("Deadline", t.at(c.Deadline))
	}
	if p := c.Progress; p != nil {
		t.field("Progress", progressText(*p))
	}
	if o := c.Outcome; o != nil {
		did := "failed"
		if o.Done {
			did = "completed"
		}
		t.field("Outcome", fmt.Sprintf("%s (%s), %s: %s", did, o.By, t.at(o.At), o.Why))
	}
	var files []string
	for _, i := range c.Items {
		files = append(files, fmt.Sprintf("%s: %s -> %s", i.Volume, i.From, i.To))
	}
	t.section("Volumes:", files)
	t.section("Still to tidy:", c.Left)
	var steps []string
	for _, s := range c.Steps {
		steps = append(steps, fmt.Sprintf("%2d  %s  %-21s  %s", s.Seq, print.Exact(s.At), s.State, s.What))
	}
	t.section("Steps of its agent, until both sides have the end:", steps)
}

// progressText is a progress in one line.
func progressText(p v1.CommandProgress) string {
	out := bytesText(p.Done)
	if p.Total > 0 {
		out = fmt.Sprintf("%d%%, %s of %s", min(100, 100*p.Done/p.Total), bytesText(p.Done), bytesText(p.Total))
	}
	if p.Rate > 0 {
		out += ", " + bytesText(p.Rate) + "/s"
	}
	if p.ETA != "" {
		out += ", " + p.ETA + " left"
	}
	return out
}

// bar is a progress as a bar of so many characters.
func bar(p v1.CommandProgress, width int) string {
	full := 0
	if p.Total > 0 {
		full = int(min(p.Total, p.Done) * int64(width) / p.Total)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "] " + progressText(p)
}
