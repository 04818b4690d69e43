// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newCertCmd is `holdfast cert`: certificates that the fleet issues and revokes itself.
func newCertCmd(e *env) *cobra.Command {
	return group("cert", "See, revoke and sign hosts' certificates",
		"The fleet signs the certificates of hosts itself, once it has an authority; they are good for 24 hours and agents renew them. Certificates from files work beside it, and may be revoked here too: docs/pki.md.",
		`  # once: an authority, its key sealed under the key ring
  holdfast cert authority create

  # what was issued; make some worth nothing
  holdfast cert list
  holdfast cert revoke --host h-17 --reason stolen`, newCertListCmd(e), newCertRevokeCmd(e), newAuthorityCmd(e))
}

func certTable() print.Table[v1.Certificate] {
	return print.Table[v1.Certificate]{
		Kind: "certificate", Plural: "certificates", Name: func(c v1.Certificate) string { return c.Serial },
		Columns: []print.Column[v1.Certificate]{
			{Name: "SERIAL", Value: func(c v1.Certificate) any { return c.Serial }},
			{Name: "IDENTITY", Value: func(c v1.Certificate) any { return c.Identity }},
			{Name: "STATE", Value: func(c v1.Certificate) any { return c.State }},
			{Name: "GOOD UNTIL", Value: func(c v1.Certificate) any { return moment(c.NotAfter) }},
			{Name: "BY", Value: func(c v1.Certificate) any { return c.How }},
			{Name: "REASON", Value: func(c v1.Certificate) any { return c.Reason }},
		},
	}
}

func newCertListCmd(e *env) *cobra.Command {
	var host string
	c := listCmd(e, "list", "List certificates that were issued or revoked", "Lists the certificates that the fleet has issued and that have not ended, and all that are revoked. Those from files are on record only when they are revoked.",
		"  holdfast cert list\n  holdfast cert list --host h-17\n  holdfast cert list -o json", certTable(),
		func(c *v1.Client, ctx context.Context) ([]v1.Certificate, error) { return c.Certificates(ctx, host) })
	c.Flags().StringVar(&host, "host", "", "those of this host")
	return c
}

func newCertRevokeCmd(e *env) *cobra.Command {
	var r v1.RevokeRequest
	var out outputFlags
	c := &cobra.Command{
		Use: "revoke [SERIAL…] [--host HOST]", Short: "Make certificates worth nothing",
		Long: "Revokes certificates by serial number, whoever has signed them, or all of a host that the fleet has issued. Workers refuse them within seconds and cut links that are up. It cannot be taken back: a host gets another one with a new join token.\n" +
			"etcd knows nothing of it: a worker's own certificate must also be taken off the list of names that etcd admits.",
		Example: "  holdfast cert revoke --host h-17 --reason stolen\n  holdfast cert revoke 5f3a9c --reason 'laptop lost'\n  holdfast cert list",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && r.Host == "" {
				return usage(errors.New("cert revoke: neither a serial nor --host is given"))
			}
			o, err := out.options(e)
			if err != nil {
				return err
			}
			api, err := e.client()
			if err != nil {
				return err
			}
			r.Serials = args
			rows, err := api.RevokeCertificates(cmd.Context(), r)
			if err != nil {
				return err
			}
			return certTable().List(e.Stdout, e.Stderr, o, rows)
		},
	}
	out.register(c)
	c.Flags().StringVar(&r.Host, "host", "", "all of this host that the fleet has issued")
	c.Flags().StringVar(&r.Reason, "reason", "", "why, for the audit log; peers are told")
	e.tryable(c)
	return c
}

func newAuthorityCmd(e *env) *cobra.Command {
	var r v1.AuthorityRequest
	create := &cobra.Command{
		Use: "create", Short: "Make an authority, the first or the next", Args: cobra.NoArgs,
		Long:    "Makes an authority for hosts. The first signs at once. A later one signs after a minute, when every worker knows it; what the ones before it have signed stays good, and hosts come to the new one as they renew, within 16 hours. Then retire the old one.",
		Example: "  holdfast cert authority create\n  holdfast cert authority list\n  holdfast cert authority create --reason 'yearly'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := e.client()
			if err != nil {
				return err
			}
			a, err := api.CreateAuthority(cmd.Context(), r)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.Stdout, "authority %s, signs from %s, good until %s\n", a.ID, a.Signs.Format(time.RFC3339), a.NotAfter.Format(time.RFC3339))
			return err
		},
	}
	create.Flags().StringVar(&r.Reason, "reason", "", "why, for the audit log")
	e.tryable(create)
	list := listCmd(e, "list", "List the authorities", "Lists the fleet's own authorities and which one signs. CURRENT counts the certificates of each that have not ended.",
		"  holdfast cert authority list\n  holdfast cert authority list -o json\n  holdfast cert authority list -o name",
		print.Table[v1.Authority]{
			Kind: "authority", Plural: "authorities", Name: func(a v1.Authority) string { return a.ID },
			Columns: []print.Column[v1.Authority]{
				{Name: "ID", Value: func(a v1.Authority) any { return a.ID }},
				{Name: "STATE", Value: func(a v1.Authority) any { return a.State }},
				{Name: "SIGNS FROM", Value: func(a v1.Authority) any { return moment(a.Signs) }},
				{Name: "GOOD UNTIL", Value: func(a v1.Authority) any { return moment(a.NotAfter) }},
				{Name: "CURRENT", Value: func(a v1.Authority) any { return a.Current }},
				{Name: "READABLE", Value: func(a v1.Authority) any { return a.Readable }},
			},
		}, (*v1.Client).Authorities)
	force := false
	retire := e.revokeCmd("retire ID", "Forget an authority", "Forgets an authority: what it has signed is worth nothing from then on. Refused for the one that signs and while certificates of it have not ended, unless forced.",
		"  holdfast cert authority list\n  holdfast cert authority retire a20261121-142800\n  holdfast cert authority retire a20261121-142800 --force --reason 'key stolen'",
		func(c *v1.Client, ctx context.Context, id, reason string) error {
			return c.RetireAuthority(ctx, id, reason, force)
		}, "authority")
	retire.Flags().BoolVar(&force, "force", false, "although hosts are cut off by it")
	return group("authority", "Make, list and retire the fleet's authorities", "An authority signs hosts' certificates and nobody else's. Its key is sealed in etcd under the key ring (docs/secrets.md).",
		"  holdfast cert authority create\n  holdfast cert authority list\n  holdfast cert authority retire a20261121-142800", create, list, retire)
}
