// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newPowerSecretCmd is `holdfast power secret`: credentials of power devices.
func newPowerSecretCmd(e *env) *cobra.Command {
	return group("secret", "Set the credentials of power devices",
		"Credentials are kept in etcd, sealed, for devices that declare `secret: sealed`. They are written and never read back: docs/secrets.md.",
		`  # asks for the password, tries it on the device, and only then replaces the old one
  holdfast power secret set h-17 bmc

  # which devices have one, since when, by whom
  holdfast power secret list
  holdfast power secret list h-17`, newSecretSetCmd(e), newSecretListCmd(e), newSecretDeleteCmd(e))
}

func (e *env) completeDevice(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return e.completeHosts(cmd, args, word)
	}
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	devices := func(api *v1.Client, ctx context.Context) ([]v1.Device, error) {
		h, err := api.Host(ctx, args[0])
		return h.Spec.Power, err
	}
	return complete(e, cmd, devices, func(d v1.Device) string { return d.Name })
}

func newSecretSetCmd(e *env) *cobra.Command {
	var out outputFlags
	var r v1.SecretRequest
	c := &cobra.Command{
		Use: "set HOST DEVICE", Short: "Set or rotate the credentials of a power device", Args: cobra.ExactArgs(2),
		Long: "Reads the password from the terminal, without echo, or from standard input; never from the command line. The owner of the host logs in to the device with it and reads its state: only if that works it replaces what is on record, in one step, and the next reading uses it.\n" +
			"If the test fails nothing is replaced. With --no-test it is stored unseen: the host may be impossible to fence until a power test passes.",
		Example:           "  holdfast power secret set h-17 bmc\n  holdfast power secret set h-17 bmc < password.txt\n  pass show bmc/h-17 | holdfast power secret set h-17 bmc --user holdfast",
		ValidArgsFunction: e.completeDevice,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, args []string) error {
		name := args[0] + "/" + args[1]
		had, err := api.Secret(ctx, args[0], args[1])
		if err != nil {
			return err
		}
		if r.NoTest {
			fmt.Fprintf(e.Stderr, "Warning: the new credentials of %s are stored without a test. If they are wrong the host cannot be fenced.\n", name)
		}
		// Untested, a typing error would be found when it is too late.
		b, err := e.password(ctx, "New password of "+name, r.NoTest)
		if err != nil {
			return err
		}
		r.Password = b
		defer r.Password.Clear()
		s, err := api.PutSecret(ctx, args[0], args[1], r, had.Revision)
		if err != nil {
			return err
		}
		for _, w := range s.Warnings {
			fmt.Fprintf(e.Stderr, "Warning: %s\n", w)
		}
		return e.show(o, s, func(t *text) {
			verb, tested := "set", "the device accepted it"
			if had.Set {
				verb = "replaced"
			}
			if !s.Tested {
				tested = "not tested: holdfast power test " + args[0]
			}
			t.printf("secret of %s: %s, sealed under key %s; %s\n", name, verb, s.Key, tested)
		})
	})
	out.registerFormat(c)
	c.Flags().StringVar(&r.User, "user", "", "account, sealed with the password (default: the user that the device declares)")
	c.Flags().BoolVar(&r.NoTest, "no-test", false, "store it without trying it on the device")
	return c
}

// secretsTable lists what is on record; a password is nowhere in it.
var secretsTable = print.Table[v1.SecretStatus]{
	Kind: "secret", Plural: "secrets",
	Name: func(s v1.SecretStatus) string { return s.Host + "/" + s.Device },
	Columns: []print.Column[v1.SecretStatus]{
		{Name: "HOST", Value: func(s v1.SecretStatus) any { return s.Host }},
		{Name: "DEVICE", Value: func(s v1.SecretStatus) any { return s.Device }},
		{Name: "USES", Value: func(s v1.SecretStatus) any { return s.Ref }},
		{Name: "SET", Value: func(s v1.SecretStatus) any { return yesNo(s.Set) }},
		{Name: "AT", Value: func(s v1.SecretStatus) any { return s.At }},
		{Name: "BY", Value: func(s v1.SecretStatus) any { return s.By }},
		{Name: "TESTED", Value: func(s v1.SecretStatus) any { return yesNo(s.Tested) }},
		{Name: "KEY", Value: func(s v1.SecretStatus) any { return s.Key }},
		{Name: "NEWEST", Value: func(s v1.SecretStatus) any { return yesNo(s.Newest) }},
		{Name: "READABLE", Value: func(s v1.SecretStatus) any { return s.Readable }},
	},
}

func newSecretListCmd(e *env) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: "list [HOST…]", Short: "List sealed credentials, never their content", Args: cobra.ArbitraryArgs,
		Long:              "Lists the devices that have sealed credentials or refer to some: when and by whom they were set, under which key. READABLE is the word of the worker that answers. What is sealed cannot be shown.",
		Example:           "  holdfast power secret list\n  holdfast power secret list h-17\n  holdfast power secret list -o json",
		ValidArgsFunction: e.completeHosts,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, hosts []string) error {
		all, err := api.Secrets(ctx)
		if err != nil {
			return err
		}
		if len(hosts) > 0 {
			all = slices.DeleteFunc(all, func(s v1.SecretStatus) bool { return !slices.Contains(hosts, s.Host) })
		}
		return printError(secretsTable.List(e.Stdout, e.Stderr, o, all))
	})
	out.register(c)
	return c
}

func newSecretDeleteCmd(e *env) *cobra.Command {
	var s safety
	c := &cobra.Command{
		Use: "delete HOST DEVICE", Short: "Forget the sealed credentials of a power device", Args: cobra.ExactArgs(2),
		Long:              "Removes the sealed credentials from the record. A device that declares `secret: sealed` cannot be read any more, and its host cannot be fenced through it.",
		Example:           "  holdfast power secret delete h-17 bmc --dry-run\n  holdfast power secret delete h-17 bmc\n  holdfast power secret delete h-17 bmc --yes",
		ValidArgsFunction: e.completeDevice,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		api, err := e.client()
		if err != nil {
			return err
		}
		name := args[0] + "/" + args[1]
		had, err := api.Secret(cmd.Context(), args[0], args[1])
		if err != nil {
			return err
		}
		if !had.Set {
			return &exitError{errors.New("secret of " + name + ": not set"), exitNotFound}
		}
		plan := v1.Plan{Host: args[0], Verb: "delete secret " + args[1], Will: []string{"forget the sealed credentials of " + name + " for good"}}
		if had.Ref == v1.SecretSealed {
			plan.Warnings = []string{"the device uses them: its host cannot be fenced through it until others are set"}
		}
		if s.dry {
			return e.show(print.Options{}, plan, func(t *text) { e.printPlan(t, plan) })
		}
		t := &text{w: e.Stderr, now: e.Now()}
		if e.printPlan(t, plan); t.err != nil {
			return t.err
		}
		if err := e.confirm(cmd.Context(), s, "delete secret of "+name, name); err != nil {
			return err
		}
		if err := api.DeleteSecret(cmd.Context(), args[0], args[1], had.Revision); err != nil {
			return err
		}
		_, err = fmt.Fprintf(e.Stdout, "secret of %s: deleted\n", name)
		return err
	}
	s.register(c)
	return c
}
