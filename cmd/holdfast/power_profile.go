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

var profileTable = print.Table[v1.ProfileField]{
	Kind: "field", Plural: "profile fields",
	Name: func(f v1.ProfileField) string { return f.Name },
	Columns: []print.Column[v1.ProfileField]{
		{Name: "FIELD", Value: func(f v1.ProfileField) any { return f.Name }},
		{Name: "VALUE", Value: func(f v1.ProfileField) any { return f.Value }},
		{Name: "ORIGIN", Value: func(f v1.ProfileField) any { return f.Origin }},
	},
}

// newPowerProfileCmd is `power profile`.
func newPowerProfileCmd(e *env) *cobra.Command {
	return group("profile", "Say once how power devices are reached, for many hosts",
		"A power profile holds, for a scope, what the declarations of the hosts below leave out: driver, account, parameters and level of a device by its name, what a level asks for, the class of the hardware and its quirks.\nEvery field is inherited by itself: global, zone, pod, cluster, host; the narrowest scope that says something wins.\nAll fields: docs/power.md.",
		`  # all BMCs of a zone in one command; hosts then need name and address only
  holdfast power profile set --scope zone/z1 device.bmc.driver=redfish device.bmc.user=holdfast device.bmc.secret=file:{host}

  # what holds for one host, and who said so
  holdfast power profile get --scope host/h-17

  # a cluster with slow BMCs
  holdfast power profile set --scope cluster/z1/p1/c1 class=slow --dry-run
  holdfast power profile unset --scope cluster/z1/p1/c1 class`,
		newPowerProfileGetCmd(e), newPowerProfileSetCmd(e), newPowerProfileUnsetCmd(e))
}

func newPowerProfileGetCmd(e *env) *cobra.Command {
	var out outputFlags
	var scope string
	c := &cobra.Command{
		Use: "get", Short: "Show the power profile that is effective at a scope", Args: cobra.NoArgs,
		Long:    "Lists every field that is effective at a scope and the scope that said so. A field that is not listed is left to the hosts' declarations and the drivers.",
		Example: "  holdfast power profile get\n  holdfast power profile get --scope host/h-17\n  holdfast power profile get --scope cluster/z1/p1/c1 -o json",
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, _ []string) error {
		p, err := api.PowerProfile(ctx, scope)
		if err != nil {
			return err
		}
		return printError(profileTable.List(e.Stdout, e.Stderr, o, p.Fields))
	})
	out.register(c)
	e.scopeFlag(c, &scope)
	return c
}

// profileFlags are what set and unset share.
type profileFlags struct {
	out    outputFlags
	scope  string
	reason string
	dry    bool
}

func (f *profileFlags) register(e *env, c *cobra.Command) {
	f.out.registerFormat(c)
	e.scopeFlag(c, &f.scope)
	c.Flags().StringVar(&f.reason, "reason", "", "why, for the record")
	c.Flags().BoolVar(&f.dry, "dry-run", false, "check, show which hosts it reaches, change nothing")
}

func newPowerProfileSetCmd(e *env) *cobra.Command {
	var f profileFlags
	c := &cobra.Command{
		Use: "set FIELD=VALUE…", Short: "Set fields of the power profile of a scope, all or none",
		Long:    "Sets fields at a scope. It is refused where a host below could not be reached any more, and says which and why. The devices it reaches are tested at once.",
		Example: "  holdfast power profile set class=slow --scope cluster/z1/p1/c1\n  holdfast power profile set device.bmc.driver=ipmi device.bmc.param.cipher=17 --dry-run\n  holdfast power profile set level.2.mode=all level.2.deadline=90s --scope zone/z1 --reason 'slow PDUs'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("takes at least one FIELD=VALUE")
			}
			for _, a := range args {
				if !strings.Contains(a, "=") {
					return fmt.Errorf("%q: allowed is FIELD=VALUE", a)
				}
			}
			return nil
		},
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		change := v1.ProfileChange{Set: map[string]string{}, Reason: f.reason}
		for _, a := range args {
			name, value, _ := strings.Cut(a, "=")
			change.Set[name] = value
		}
		return e.changeProfile(cmd.Context(), f, change)
	}
	f.register(e, c)
	return c
}

func newPowerProfileUnsetCmd(e *env) *cobra.Command {
	var f profileFlags
	c := &cobra.Command{
		Use: "unset FIELD…", Short: "Take fields of the power profile of a scope back, all or none", Args: cobra.MinimumNArgs(1),
		Long:    "Removes what a scope said of some fields: what wider scopes say holds again. It is refused where a host below could not be reached any more.",
		Example: "  holdfast power profile unset class --scope cluster/z1/p1/c1\n  holdfast power profile unset device.bmc.driver --dry-run\n  holdfast power profile unset level.2.mode level.2.deadline --scope zone/z1",
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return e.changeProfile(cmd.Context(), f, v1.ProfileChange{Unset: args, Reason: f.reason})
	}
	f.register(e, c)
	return c
}

func (e *env) changeProfile(ctx context.Context, f profileFlags, change v1.ProfileChange) error {
	o, err := f.out.options(e)
	if err != nil {
		return err
	}
	api, err := e.client()
	if err != nil {
		return err
	}
	p, err := api.ChangePowerProfile(ctx, f.scope, change, -1, f.dry)
	if err != nil {
		return err
	}
	return e.show(o, p, func(t *text) {
		t.printf("power profile at %s: %d fields in effect there, reaches %d of %d hosts%s", p.Scope, len(p.Fields), len(p.Changed), p.Hosts, someNames(p.Changed))
		if f.dry {
			t.printf(" (dry run: nothing was changed)")
		}
		t.printf("\n")
	})
}

// someNames names the first few of many.
func someNames(names []string) string {
	const few = 5
	switch {
	case len(names) == 0:
		return ""
	case len(names) <= few:
		return ": " + strings.Join(names, ", ")
	}
	return fmt.Sprintf(": %s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
