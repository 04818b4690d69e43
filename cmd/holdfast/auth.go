// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newAuthCmd is `holdfast auth`: who may do what.
func newAuthCmd(e *env) *cobra.Command {
	return group("auth", "Say who may do what",
		"Operators prove who they are by a certificate or a bearer token and may do what their role says: viewer, operator, admin (docs/security-trust.md).",
		`  # whom the fleet takes me for
  holdfast auth whoami

  # a token for a program that only looks
  holdfast auth token create ci --role viewer > token
  HOLDFAST_TOKEN=$(cat token) holdfast get hosts

  # who has changed what
  holdfast auth audit`, newWhoamiCmd(e), newTokenCmd(e), newAuditCmd(e))
}

func newWhoamiCmd(e *env) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: "whoami", Short: "Whom the fleet takes you for", Args: cobra.NoArgs,
		Long:    "Shows the name under which you are in the audit log. Your role comes from the same certificate or token.",
		Example: "  holdfast auth whoami\n  holdfast auth whoami -o json\n  HOLDFAST_TOKEN=hft.… holdfast auth whoami",
		RunE: e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, _ []string) error {
			w, err := api.Whoami(ctx)
			if err != nil {
				return err
			}
			return e.show(o, w, func(t *text) {
				t.field("Name", w.Name)
				t.field("Role", string(w.Role))
				t.field("By", w.By)
				t.field("Token", w.Token)
				t.field("Good until", moment(w.Expires))
			})
		}),
	}
	out.registerFormat(c)
	return c
}

// moment is a time, empty for none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return print.Exact(t)
}

func newTokenCmd(e *env) *cobra.Command {
	var r v1.TokenRequest
	var role string
	var life time.Duration
	create := &cobra.Command{
		Use: "create NAME --role viewer|operator|admin", Short: "Make a bearer token", Args: cobra.ExactArgs(1),
		Long:    "Makes a token and prints it, this once; the fleet keeps its SHA-256 alone. Changes that it makes are in the audit log as token/NAME. Give it to the tool in HOLDFAST_TOKEN, never on a command line.",
		Example: "  holdfast auth token create ci --role viewer > token\n  holdfast auth token create deploy --role admin --for 24h --reason 'new rack'\n  holdfast auth token list",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := e.client()
			if err != nil {
				return err
			}
			r.Name, r.Role, r.For = args[0], v1.Role(role), life.String()
			t, err := api.CreateToken(cmd.Context(), r)
			if err != nil {
				return err
			}
			fmt.Fprintf(e.Stderr, "token %s of %s, role %s, good until %s\n", t.ID, t.Name, t.Role, t.Expires.Format(time.RFC3339))
			return e.secretOnce(t.Secret)
		},
	}
	create.Flags().StringVar(&role, "role", "", "viewer, operator or admin")
	create.Flags().DurationVar(&life, "for", 30*24*time.Hour, "how long it is good, up to 8760h")
	create.Flags().StringVar(&r.Reason, "reason", "", "why, for the audit log")
	_ = create.MarkFlagRequired("role") // the flag exists: above
	e.tryable(create)
	list := listCmd(e, "list", "List the bearer tokens", "Lists the bearer tokens, their roles and ends. The tokens themselves are never shown.",
		"  holdfast auth token list\n  holdfast auth token list -o json\n  holdfast auth token list -o name",
		print.Table[v1.Token]{
			Kind: "token", Plural: "tokens", Name: func(t v1.Token) string { return t.ID },
			Columns: []print.Column[v1.Token]{
				{Name: "ID", Value: func(t v1.Token) any { return t.ID }},
				{Name: "NAME", Value: func(t v1.Token) any { return t.Name }},
				{Name: "ROLE", Value: func(t v1.Token) any { return string(t.Role) }},
				{Name: "GOOD UNTIL", Value: func(t v1.Token) any { return moment(t.Expires) }},
				{Name: "BY", Value: func(t v1.Token) any { return t.By }},
			},
		}, (*v1.Client).Tokens)
	return group("token", "Make, list and end bearer tokens", "Bearer tokens stand for programs and people without a certificate. The fleet keeps their hashes alone.",
		"  holdfast auth token create ci --role viewer > token\n  holdfast auth token list\n  holdfast auth token revoke 1f2e3d4c5b6a", create, list,
		e.revokeCmd("revoke ID", "End a bearer token", "Ends a token at once. Watches that it has open end within seconds.",
			"  holdfast auth token revoke 1f2e3d4c5b6a\n  holdfast auth token list\n  holdfast auth token revoke 1f2e3d4c5b6a --reason 'left the team'", (*v1.Client).RevokeToken, "token"))
}

func newAuditCmd(e *env) *cobra.Command {
	var host string
	c := listCmd(e, "audit", "Who has changed what", "Lists the changes that operators and hosts' enrolments have made, the newest first. With -o json what was there before and after of each field.",
		"  holdfast auth audit\n  holdfast auth audit --host h-17\n  holdfast auth audit -o json",
		print.Table[v1.Audit]{
			Kind: "audit", Plural: "audits", Name: func(a v1.Audit) string { return a.ID },
			Columns: []print.Column[v1.Audit]{
				{Name: "AT", Value: func(a v1.Audit) any { return moment(a.At) }},
				{Name: "WHO", Value: func(a v1.Audit) any { return a.Who }},
				{Name: "WHAT", Value: func(a v1.Audit) any { return a.What }},
				{Name: "MESSAGE", Value: func(a v1.Audit) any { return a.Message }},
			},
		}, func(c *v1.Client, ctx context.Context) ([]v1.Audit, error) { return c.Audits(ctx, host, 0) })
	c.Flags().StringVar(&host, "host", "", "changes of this host only")
	return c
}

// secretOnce prints a secret that is told once; a dry run makes none.
func (e *env) secretOnce(secret string) error {
	if secret == "" {
		return nil
	}
	_, err := fmt.Fprintln(e.Stdout, secret)
	return err
}

// listCmd is a command that prints one table.
func listCmd[T any](e *env, use, short, long, example string, table print.Table[T], list func(*v1.Client, context.Context) ([]T, error)) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cobra.NoArgs,
		RunE: e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, _ []string) error {
			rows, err := list(api, ctx)
			if err != nil {
				return err
			}
			return table.List(e.Stdout, e.Stderr, o, rows)
		}),
	}
	out.register(c)
	return c
}

// revokeCmd is a command that ends one thing by its id.
func (e *env) revokeCmd(use, short, long, example string, revoke func(c *v1.Client, ctx context.Context, id, reason string) error, what string) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := e.client()
			if err != nil {
				return err
			}
			if err := revoke(api, cmd.Context(), args[0], reason); err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.Stdout, "%s %s ended\n", what, args[0])
			return err
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	e.tryable(c)
	return c
}
