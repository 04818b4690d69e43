// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// env is all that the tool uses of the outside. Tests make their own.
type env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	IsTTY          func(stream any) bool // of Stdin or Stdout
	Now            func() time.Time

	context  string        // --context
	endpoint string        // --endpoint
	cacert   string        // --cacert
	cert     string        // --cert
	key      string        // --key
	timeout  time.Duration // --request-timeout
	api      *v1.Client    // made by client() once
	started  bool          // a command's own code was reached: errors are no usage errors any more
}

// run is the whole tool: it returns the exit code of exit.go.
func run(ctx context.Context, e *env, args []string) int {
	root := newRoot(e)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !e.started {
		err = usage(err)
	}
	return e.report(ctx, err)
}

// newRoot builds the tree of commands over an env. It has no side effects.
func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Keep fleets of hypervisors highly available",
		Long: "Holdfast watches hypervisors through their agents and their neighbours, and powers a dead one off for certain before anything restarts elsewhere.\n" +
			"This tool asks and tells the workers: their addresses come from --endpoint, HOLDFAST_ENDPOINT or the current context, in this order.",
		Example: `  # a fleet to play with, on this machine
  holdfast dev

  # all hosts, then one of them in words
  holdfast get hosts
  holdfast explain host h-17

  # what is going on
  holdfast events -w`,
		SilenceErrors: true, SilenceUsage: true,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetIn(e.Stdin)
	root.SetOut(e.Stdout)
	root.SetErr(e.Stderr)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if words := cmd.Flags().Args(); cmd.HasSubCommands() && len(words) > 0 { // the flag is not what is wrong
			return noSuchCommand(cmd, words)
		}
		return err
	})
	f := root.PersistentFlags()
	f.StringVar(&e.context, "context", "", "context to use instead of the current one")
	f.StringVar(&e.endpoint, "endpoint", "", "addresses of workers, comma-separated, tried in order")
	e.registerCertFlags(f)
	f.DurationVar(&e.timeout, "request-timeout", 15*time.Second, "longest wait for one answer of the API")

	for _, g := range []*cobra.Group{{ID: "look", Title: "Look:"}, {ID: "act", Title: "Act:"}, {ID: "set", Title: "Configure:"}, {ID: "try", Title: "Try:"}} {
		root.AddGroup(g)
	}
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("look", newGetCmd(e), newDescribeCmd(e), newExplainCmd(e), newIncidentCmd(e), newReplayCmd(e), newEventsCmd(e), newWaitCmd(e), newAllocateCmd(e), newPlanCmd(e), newSupportCmd(e))
	add("act", newPowerCmd(e), newHostCmd(e), newPartitionCmd(e), newHACmd(e), newWorkerCmd(e), newAgentCmd(e), newEtcdCmd(e), newVolumeCmd(e), newTemplateCmd(e), newInstanceCmd(e), newCommandCmd(e))
	add("set", newApplyCmd(e), newSettingsCmd(e), newContextCmd(e), newPKICmd(e), newSecretCmd(e), newCertCmd(e), newJoinTokenCmd(e), newAuthCmd(e), newWebhookCmd(e))
	add("try", newDevCmd(e), newDemoCmd(e), newSimCmd(e), newSimulateCmd(e))
	root.AddCommand(newVersionCmd(e), newCompletionCmd(e), newChildCmd(e))
	e.completeFlag(root, "context", e.completeContexts)
	markStarted(root, e)
	return root
}

// markStarted lets run tell a mistake on the command line from a failure at work, and
// puts the usage line next to the mistake.
func markStarted(c *cobra.Command, e *env) {
	if check := c.Args; !c.HasSubCommands() {
		c.Args = func(cmd *cobra.Command, args []string) (err error) {
			if check != nil {
				err = check(cmd, args)
			}
			if err == nil {
				err = emptyWord(cmd, args)
			}
			if err != nil {
				return &hintError{fmt.Errorf("%s: %w", cmd.CommandPath(), err), "usage: " + cmd.UseLine()}
			}
			return nil
		}
	}
	if c.RunE != nil {
		inner := c.RunE
		c.RunE = func(cmd *cobra.Command, args []string) error {
			e.started = true
			return inner(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		markStarted(sub, e)
	}
}

// mayBeEmpty annotates a command whose last argument may be empty: a value, no name.
var mayBeEmpty = map[string]string{"empty": "last"}

// emptyWord refuses a name, or a place given by a flag, that is empty. Nearly always it is a
// variable that a script has not set, and an empty place would mean everything.
func emptyWord(cmd *cobra.Command, args []string) (err error) {
	for i, a := range args {
		if strings.TrimSpace(a) == "" && !(cmd.Annotations["empty"] == "last" && i == len(args)-1) {
			return fmt.Errorf("argument %d: %q, allowed is a name that is not empty", i+1, a)
		}
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if slices.Contains([]string{"scope", "partition", "host", "worker", "to"}, f.Name) && f.Value.Type() == "string" && strings.TrimSpace(f.Value.String()) == "" {
			err = fmt.Errorf("--%s: %q, allowed is a name that is not empty", f.Name, f.Value)
		}
	})
	return err
}

// group is a command that only has sub-commands. An unknown one is a usage error.
func group(use, short, long, example string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, Example: example}
	c.Args = noSuchCommand
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	c.AddCommand(subs...)
	return c
}

// noSuchCommand refuses what is left when no sub-command took it.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		return &hintError{err, "did you mean " + strings.Join(s, " or ") + "?"}
	}
	return &hintError{err, "all of them: " + cmd.CommandPath() + " --help"}
}

// client is the API client of this run: flag, then environment, then context.
func (e *env) client() (*v1.Client, error) {
	if e.api != nil {
		return e.api, nil
	}
	entry, err := e.entry()
	if err != nil {
		return nil, err
	}
	endpoints, transport, err := e.transport(entry)
	if err != nil {
		return nil, err
	}
	e.api, err = v1.NewClient(v1.Options{
		Endpoints: endpoints, Timeout: e.timeout, Actor: e.actor(), Token: e.Getenv(tokenVariable), Transport: transport, Run: uuid.NewString(),
		Lost: func(err error) { fmt.Fprintf(e.Stderr, "connection lost: %v; trying again\n", err) },
	})
	if err != nil {
		return nil, usage(err)
	}
	return e.api, nil
}

// actor is the name that goes with writes. It is a claim until the API asks for proof.
func (e *env) actor() string {
	if n := e.Getenv("HOLDFAST_ACTOR"); n != "" {
		return n
	}
	if n := e.Getenv("USER"); n != "" {
		return n
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "uid-" + fmt.Sprint(os.Getuid())
}
