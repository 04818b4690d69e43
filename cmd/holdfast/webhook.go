// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newWebhookCmd is `holdfast webhook`: who is told of events.
func newWebhookCmd(e *env) *cobra.Command {
	return group("webhook", "Say who is told of events",
		"A hook is told of every event that its filters select, at least once and in order, from where it was: a receiver that was away misses nothing that the log still has. It is an HTTPS receiver, or a program on the workers. What they get, and how they verify it: docs/hooks.md.",
		`  # an HTTPS receiver; the key that signs is asked for, or read from standard input
  holdfast webhook add pager https://hooks.example.com/holdfast --severity page
  holdfast webhook test pager

  # a program on every worker, for the hosts of one zone
  holdfast webhook add ticket --exec /usr/lib/holdfast/ticket --scope zone/z1 --type 'host.*'

  # how far they are
  holdfast webhook list
  holdfast webhook show pager`,
		newWebhookAddCmd(e), newWebhookSetCmd(e), newWebhookListCmd(e), newWebhookShowCmd(e), newWebhookTestCmd(e), newWebhookEnableCmd(e, true), newWebhookEnableCmd(e, false), newWebhookRemoveCmd(e))
}

func (e *env) completeHooks(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	api, err := e.client()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := api.Hooks(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, h := range all {
		names = append(names, h.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// hookFlags are what `add` and `set` say of a hook.
type hookFlags struct {
	spec          v1.HookSpec
	urlFile, ca   string
	key           bool
	reason, since string
	timeout       time.Duration
	retry, after  time.Duration
}

func (f *hookFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.urlFile, "url-file", "", "file with the URL, for one that is a secret itself; - is standard input")
	fs.StringArrayVar(&f.spec.Types, "type", nil, "event type, or host.* for all that begin so; may be given several times (default all)")
	fs.StringArrayVar(&f.spec.Severities, "severity", nil, "info, warning or page; may be given several times (default all)")
	fs.StringArrayVar(&f.spec.Scopes, "scope", nil, "zone/Z, pod/Z/P, cluster/Z/P/C or host/H; may be given several times (default all)")
	fs.StringArrayVar(&f.spec.Args, "arg", nil, "argument of the program, never a secret; may be given several times")
	fs.StringVar(&f.ca, "ca", "", "file with the authorities of the receiver's certificate (default the workers' system's)")
	fs.StringVar(&f.spec.Source, "source", "", "source of the CloudEvents, an URI reference (default /holdfast)")
	fs.DurationVar(&f.timeout, "timeout", 0, "of one attempt, 1s to 60s (default 10s)")
	fs.DurationVar(&f.retry, "retry-max", 0, "longest wait between two attempts, 1s to 1h (default 5m)")
	fs.IntVar(&f.spec.DisableFailures, "disable-failures", 0, "switch it off after so many failed attempts in a row (default 20) …")
	fs.DurationVar(&f.after, "disable-after", 0, "… and when so long none succeeded, 1m to 168h (default 24h)")
	fs.StringVar(&f.reason, "reason", "", "why, for the audit log")
}

// merge puts what was given on the command line over a spec.
func (f *hookFlags) merge(fs *pflag.FlagSet, s *v1.HookSpec) error {
	for name, set := range map[string]func(){
		"type": func() { s.Types = f.spec.Types }, "severity": func() { s.Severities = f.spec.Severities }, "scope": func() { s.Scopes = f.spec.Scopes },
		"arg": func() { s.Args = f.spec.Args }, "source": func() { s.Source = f.spec.Source }, "timeout": func() { s.Timeout = f.timeout.String() },
		"retry-max": func() { s.RetryMax = f.retry.String() }, "disable-failures": func() { s.DisableFailures = f.spec.DisableFailures },
		"disable-after": func() { s.DisableAfter = f.after.String() }, "exec": func() { s.Target = f.spec.Target },
	} {
		if fs.Changed(name) {
			set()
		}
	}
	if f.ca != "" {
		b, err := os.ReadFile(f.ca)
		if err != nil {
			return usage(fmt.Errorf("ca: %w", err))
		}
		s.CA = string(b)
	}
	return nil
}

// url is that of the argument or of the file; empty: none was given.
func (f *hookFlags) url(e *env, args []string) (v1.Password, error) {
	if len(args) > 1 {
		if f.urlFile != "" {
			return nil, usage(errors.New("URL: given twice, as an argument and with --url-file"))
		}
		return v1.Password(args[1]), nil
	}
	if f.urlFile == "" {
		return nil, nil
	}
	var b []byte
	var err error
	if f.urlFile == "-" {
		b, err = io.ReadAll(io.LimitReader(e.Stdin, maxTyped))
	} else {
		b, err = os.ReadFile(f.urlFile)
	}
	if err != nil {
		return nil, usage(fmt.Errorf("url-file: %w", err))
	}
	return v1.Password(strings.TrimSpace(string(b))), nil
}

func newWebhookAddCmd(e *env) *cobra.Command {
	var f hookFlags
	var program string
	c := &cobra.Command{
		Use: "add NAME [URL]", Short: "Tell somebody new of events", Args: cobra.RangeArgs(1, 2),
		Long: "Declares a webhook, or with --exec a program that is on every worker. A webhook's key signs what is sent; it is asked for, or read from standard input, and kept sealed with the URL: neither is shown again.\n" +
			"It is told of events from now on, with --since of earlier ones too.",
		Example: "  holdfast webhook add pager https://hooks.example.com/holdfast --severity page\n  openssl rand -hex 32 | tee key | holdfast webhook add chat --url-file url --type 'host.*'\n  holdfast webhook add ticket --exec /usr/lib/holdfast/ticket --since 2h",
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		r := v1.HookRequest{HookSpec: v1.HookSpec{Kind: v1.HookWeb}, Since: f.since, Reason: f.reason}
		if err := f.merge(cmd.Flags(), &r.HookSpec); err != nil {
			return err
		}
		var err error
		if r.URL, err = f.url(e, args); err != nil {
			return err
		}
		switch {
		case program != "" && len(r.URL) > 0:
			return usage(errors.New("--exec and a URL: given both, allowed is one of them"))
		case program != "":
			r.Kind, r.Target = v1.HookExec, program
		case len(r.URL) == 0:
			return usage(errors.New("URL: none given; as the second argument, with --url-file, or --exec with a program"))
		case f.urlFile == "-":
			return usage(errors.New("url-file: - cannot be used here, standard input is for the key"))
		}
		if r.Kind == v1.HookWeb {
			if r.Key, err = e.password(cmd.Context(), "Key that signs what "+args[0]+" gets", true); err != nil {
				return err
			}
			defer r.Key.Clear()
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		h, err := api.PutHook(cmd.Context(), args[0], r, 0)
		if err != nil {
			return fmt.Errorf("webhook add %s: %w", args[0], err)
		}
		_, err = fmt.Fprintf(e.Stdout, "webhook %s: %s %s, try it: holdfast webhook test %s\n", h.Name, h.Kind, h.Target, h.Name)
		return err
	}
	f.register(c.Flags())
	c.Flags().StringVar(&program, "exec", "", "absolute path of a program that gets each event on its standard input")
	c.Flags().StringVar(&f.since, "since", "", "also events since then: a time, or a duration back from now")
	e.tryable(c)
	return c
}

func newWebhookSetCmd(e *env) *cobra.Command {
	var f hookFlags
	c := &cobra.Command{
		Use: "set NAME [URL]", Short: "Change a hook", Args: cobra.RangeArgs(1, 2), ValidArgsFunction: e.completeHooks,
		Long:    "Changes what is given and leaves the rest, its place in the log included. A filter that is given replaces the whole filter; --type '' takes it away. With --new-key the key that signs is asked for, or read from standard input.",
		Example: "  holdfast webhook set pager --severity page --severity warning\n  holdfast webhook set pager https://hooks.example.com/new\n  openssl rand -hex 32 | tee key | holdfast webhook set pager --new-key",
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		api, err := e.client()
		if err != nil {
			return err
		}
		had, err := api.Hook(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		r := v1.HookRequest{HookSpec: had.HookSpec, Reason: f.reason}
		if err := f.merge(cmd.Flags(), &r.HookSpec); err != nil {
			return err
		}
		for _, list := range []*[]string{&r.Types, &r.Severities, &r.Scopes, &r.Args} {
			if len(*list) == 1 && (*list)[0] == "" {
				*list = nil
			}
		}
		if r.URL, err = f.url(e, args); err != nil {
			return err
		}
		if f.key {
			if f.urlFile == "-" {
				return usage(errors.New("url-file: - cannot be used with --new-key, standard input is for the key"))
			}
			if r.Key, err = e.password(cmd.Context(), "New key that signs what "+args[0]+" gets", true); err != nil {
				return err
			}
			defer r.Key.Clear()
		}
		h, err := api.PutHook(cmd.Context(), args[0], r, had.Revision)
		if err != nil {
			return fmt.Errorf("webhook set %s: %w", args[0], err)
		}
		_, err = fmt.Fprintf(e.Stdout, "webhook %s: changed\n", h.Name)
		return err
	}
	f.register(c.Flags())
	c.Flags().StringVar(&f.spec.Target, "exec", "", "absolute path of the program")
	c.Flags().BoolVar(&f.key, "new-key", false, "replace the key that signs")
	e.tryable(c)
	return c
}

// orAll is a filter, or the word for none.
func orAll(list []string) string {
	if len(list) == 0 {
		return "all"
	}
	return strings.Join(list, ",")
}

func newWebhookListCmd(e *env) *cobra.Command {
	return listCmd(e, "list", "List who is told of events", "Lists webhooks and program hooks: what they are told of and how far they are. BEHIND counts events in the log that come after, those that the filters pass over included. URLs and keys are never shown.",
		"  holdfast webhook list\n  holdfast webhook list -o wide\n  holdfast webhook list -o json",
		print.Table[v1.Hook]{
			Kind: "webhook", Plural: "webhooks", Name: func(h v1.Hook) string { return h.Name },
			Columns: []print.Column[v1.Hook]{
				{Name: "NAME", Value: func(h v1.Hook) any { return h.Name }},
				{Name: "STATE", Value: func(h v1.Hook) any { return h.Status.State }},
				{Name: "TARGET", Value: func(h v1.Hook) any { return h.Target }},
				{Name: "TYPES", Value: func(h v1.Hook) any { return orAll(h.Types) }},
				{Name: "SEVERITIES", Value: func(h v1.Hook) any { return orAll(h.Severities) }},
				{Name: "SCOPES", Value: func(h v1.Hook) any { return orAll(h.Scopes) }},
				{Name: "BEHIND", Value: func(h v1.Hook) any { return h.Status.Behind }},
				{Name: "FAILURES", Value: func(h v1.Hook) any { return h.Status.Failures }},
				{Name: "OWNER", Value: func(h v1.Hook) any { return h.Owner }},
			},
		}, (*v1.Client).Hooks)
}

func newWebhookShowCmd(e *env) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: "show NAME", Short: "Show one hook, never its secrets", Args: cobra.ExactArgs(1), ValidArgsFunction: e.completeHooks,
		Long:    "Shows what a hook is told of, how far it is, and what was wrong last. Of a URL no more than scheme and host are shown.",
		Example: "  holdfast webhook show pager\n  holdfast webhook show pager -o json\n  holdfast webhook show pager -o jsonpath='{.status.state}'",
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, args []string) error {
		h, err := api.Hook(ctx, args[0])
		if err != nil {
			return err
		}
		return e.show(o, h, func(t *text) { printHook(t, h) })
	})
	out.registerFormat(c)
	return c
}

func printHook(t *text, h v1.Hook) {
	s := h.Status
	t.field("Name", h.Name)
	t.field("State", s.State)
	t.field("Target", strings.Join(append([]string{h.Kind, h.Target}, h.Args...), " "))
	t.field("Types", orAll(h.Types))
	t.field("Severities", orAll(h.Severities))
	t.field("Scopes", orAll(h.Scopes))
	t.field("Sealed under", h.SealedKey)
	t.field("Set", moment(h.At)+" by "+h.By)
	t.field("Owner", h.Owner)
	t.field("Cursor", fmt.Sprintf("revision %d, %d events behind", s.Cursor, s.Behind))
	t.field("Delivered", moment(s.Delivered))
	if s.Failures > 0 {
		t.field("Failures", fmt.Sprintf("%d in a row since %s: %s", s.Failures, moment(s.FailingSince), s.LastError))
	}
	if !s.Disabled.IsZero() {
		t.field("Switched off", moment(s.Disabled)+" by itself; to go on: holdfast webhook enable "+h.Name)
	}
	if s.Gaps > 0 {
		t.field("Gaps", fmt.Sprintf("%d, the last %s: the log had dropped events before they were delivered", s.Gaps, moment(s.Gap)))
	}
}

func newWebhookTestCmd(e *env) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: "test NAME", Short: "Send a test event now", Args: cobra.ExactArgs(1), ValidArgsFunction: e.completeHooks,
		Long:    "Sends one event of type com.github.holdfast-ha.test, signed like any other, once, from the worker that answers. Whatever comes of it changes nothing on record. Exit code 5: it was not taken.",
		Example: "  holdfast webhook test pager\n  holdfast webhook test pager -o json\n  holdfast webhook test ticket",
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, args []string) error {
		r, err := api.TestHook(ctx, args[0])
		if err != nil {
			return err
		}
		if err := e.show(o, r, func(t *text) {
			if r.OK {
				t.printf("webhook %s: took the test event %s from worker %s in %s\n", r.Hook, r.ID, r.Worker, r.Took)
			}
		}); err != nil || r.OK {
			return err
		}
		return &exitError{fmt.Errorf("webhook %s: did not take the test event from worker %s: %s", r.Hook, r.Worker, r.Error), exitUnhealthy}
	})
	out.registerFormat(c)
	return c
}

func newWebhookEnableCmd(e *env, on bool) *cobra.Command {
	verb, short, long := "enable", "Let a hook deliver again", "Lets a hook deliver, from the event that it has not got yet; also one that was switched off after too many failures. Acknowledges a gap."
	if !on {
		verb, short, long = "disable", "Stop a hook for a while", "Stops a hook. Its place in the log stays: enabled again it goes on from there, as far as the log reaches back."
	}
	s := v1.Switch{On: on}
	c := &cobra.Command{
		Use: verb + " NAME", Short: short, Long: long, Args: cobra.ExactArgs(1), ValidArgsFunction: e.completeHooks,
		Example: fmt.Sprintf("  holdfast webhook %[1]s pager\n  holdfast webhook %[1]s pager --reason 'receiver was moved'\n  holdfast webhook show pager", verb),
		RunE: e.asking(nil, func(ctx context.Context, api *v1.Client, _ print.Options, args []string) error {
			h, err := api.EnableHook(ctx, args[0], s)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.Stdout, "webhook %s: %s, %d events behind\n", h.Name, h.Status.State, h.Status.Behind)
			return err
		}),
	}
	c.Flags().StringVar(&s.Reason, "reason", "", "why, for the audit log")
	e.tryable(c)
	return c
}

func newWebhookRemoveCmd(e *env) *cobra.Command {
	var s safety
	c := &cobra.Command{
		Use: "remove NAME", Short: "Tell a hook of nothing any more", Args: cobra.ExactArgs(1), ValidArgsFunction: e.completeHooks,
		Long:    "Forgets a hook, its secrets and its place in the log. Declared anew it begins with new events.",
		Example: "  holdfast webhook remove pager --dry-run\n  holdfast webhook remove pager\n  holdfast webhook remove pager --yes",
	}
	c.RunE = e.asking(nil, func(ctx context.Context, api *v1.Client, _ print.Options, args []string) error {
		h, err := api.Hook(ctx, args[0])
		if err != nil {
			return err
		}
		plan := fmt.Sprintf("webhook %s (%s %s), %d events behind, will be forgotten with its secrets\n", h.Name, h.Kind, h.Target, h.Status.Behind)
		if s.dry {
			_, err := fmt.Fprint(e.Stdout, plan)
			return err
		}
		fmt.Fprint(e.Stderr, plan)
		if err := e.confirm(ctx, s, "remove webhook "+h.Name, h.Name); err != nil {
			return err
		}
		if err := api.DeleteHook(ctx, h.Name, h.Revision); err != nil {
			return err
		}
		_, err = fmt.Fprintf(e.Stdout, "webhook %s: removed\n", h.Name)
		return err
	})
	s.register(c)
	return c
}
