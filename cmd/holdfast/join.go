// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newJoinTokenCmd is `holdfast join-token`: how hosts get their first certificate.
func newJoinTokenCmd(e *env) *cobra.Command {
	return group("join-token", "Let a host get its first certificate",
		"A join token lets the agent of one host ask once for a certificate. It also names the authority of the workers, so that the agent shows it to nobody else: docs/pki.md.",
		`  # for one host, good for an hour
  holdfast join-token create h-17 > token
  holdfast join-token list
  holdfast join-token revoke 1f2e3d4c5b6a --reason 'host was not built'`,
		newJoinCreateCmd(e), newJoinListCmd(e),
		e.revokeCmd("revoke ID", "End a join token", "Ends a join token that was not used yet. A certificate that it has given stays good: holdfast cert revoke.",
			"  holdfast join-token revoke 1f2e3d4c5b6a\n  holdfast join-token list\n  holdfast join-token revoke 1f2e3d4c5b6a --reason 'host was not built'", (*v1.Client).RevokeJoinToken, "join token"))
}

func newJoinCreateCmd(e *env) *cobra.Command {
	var r v1.JoinTokenRequest
	var life time.Duration
	c := &cobra.Command{
		Use: "create HOST", Short: "Make a join token", Args: cobra.ExactArgs(1),
		Long:    "Makes a token for the agent of HOST and prints it, this once. Put it into a file that only the agent can read, and name that in its field joinToken.",
		Example: "  holdfast join-token create h-17 > token\n  holdfast join-token create h-17 --for 24h --reason 'rack 7'\n  holdfast join-token list",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := e.client()
			if err != nil {
				return err
			}
			r.Host, r.For = args[0], life.String()
			t, err := api.CreateJoinToken(cmd.Context(), r)
			if err != nil {
				return err
			}
			fmt.Fprintf(e.Stderr, "join token %s for host %s, good once until %s\n", t.ID, t.Host, t.Expires.Format(time.RFC3339))
			return e.secretOnce(t.Secret)
		},
	}
	c.Flags().DurationVar(&life, "for", time.Hour, "how long it is good, up to 168h")
	c.Flags().StringVar(&r.Reason, "reason", "", "why, for the audit log")
	e.tryable(c)
	return c
}

func newJoinListCmd(e *env) *cobra.Command {
	return listCmd(e, "list", "List the join tokens", "Lists the join tokens and whether they were used. The tokens themselves are never shown.",
		"  holdfast join-token list\n  holdfast join-token list -o json\n  holdfast join-token list -o name",
		print.Table[v1.JoinToken]{
			Kind: "join-token", Plural: "join-tokens", Name: func(t v1.JoinToken) string { return t.ID },
			Columns: []print.Column[v1.JoinToken]{
				{Name: "ID", Value: func(t v1.JoinToken) any { return t.ID }},
				{Name: "HOST", Value: func(t v1.JoinToken) any { return t.Host }},
				{Name: "GOOD UNTIL", Value: func(t v1.JoinToken) any { return moment(t.Expires) }},
				{Name: "USED", Value: func(t v1.JoinToken) any { return moment(t.Used) }},
				{Name: "BY", Value: func(t v1.JoinToken) any { return t.By }},
			},
		}, (*v1.Client).JoinTokens)
}
