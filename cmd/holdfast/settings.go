// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newSettingsCmd is `holdfast settings`.
func newSettingsCmd(e *env) *cobra.Command {
	return group("settings", "Read and change settings, live",
		"Settings have a type, a default and bounds, and a scope: global, zone/…, pod/…, cluster/… or host/…; the narrowest one wins.\nChanges take effect without a restart and say where a value comes from.",
		`  # what holds for one cluster, and why
  holdfast settings list --scope cluster/z1/p1/c1 -o wide

  # all timings at once
  holdfast settings set preset fast --scope zone/z1

  # one of them, for a while
  holdfast settings set ha.policy observe --scope host/h-17 --for 2h --reason 'firmware update'
  holdfast settings unset ha.policy --scope host/h-17`,
		newSettingsListCmd(e, "list", "ls"), newSettingsGetCmd(e), newSettingsSetCmd(e), newSettingsUnsetCmd(e))
}

// newSettingsListCmd is `settings list` and `get settings`.
func newSettingsListCmd(e *env, use, alias string) *cobra.Command {
	var out outputFlags
	var scope string
	c := &cobra.Command{
		Use: use + " [SETTING…]", Aliases: []string{alias}, Short: "List settings as they are effective at a scope",
		Long:              "Lists every setting with its value and where that comes from. Bounds, effect and meaning are in -o wide.",
		Example:           "  holdfast settings list\n  holdfast settings list --scope host/h-17 -o wide\n  holdfast get settings ha.policy -o json",
		ValidArgsFunction: e.completeSettings,
	}
	c.RunE = func(cmd *cobra.Command, names []string) error {
		o, err := out.options(e)
		if err != nil {
			return err
		}
		items, err := e.settings(cmd, scope, names)
		if err != nil {
			return err
		}
		return printError(settingsTable.List(e.Stdout, e.Stderr, o, items))
	}
	out.register(c)
	e.scopeFlag(c, &scope)
	return c
}

// settings reads settings at a scope; names, if given, must exist.
func (e *env) settings(cmd *cobra.Command, scope string, names []string) ([]v1.Setting, error) {
	api, err := e.client()
	if err != nil {
		return nil, err
	}
	items, err := api.Settings(cmd.Context(), scope)
	if err != nil {
		return nil, err
	}
	items, err = pick(items, "setting", settingsTable.Name, names)
	if err != nil {
		return nil, &hintError{err, "all of them: holdfast settings list"}
	}
	return items, nil
}

func (e *env) scopeFlag(c *cobra.Command, scope *string) {
	c.Flags().StringVar(scope, "scope", "", "global (default), zone/…, pod/…, cluster/… or host/…")
	e.completeFlag(c, "scope", e.completeScopes)
}

func newSettingsGetCmd(e *env) *cobra.Command {
	var out outputFlags
	var scope string
	c := &cobra.Command{
		Use: "get SETTING", Short: "Show one setting", Args: cobra.ExactArgs(1),
		Long:              "Shows one setting as it is effective at a scope: value, origin, default, bounds, effect and meaning. With -o name it prints the value alone.",
		Example:           "  holdfast settings get ha.policy\n  holdfast settings get agent.ping.interval --scope host/h-17\n  holdfast settings get ha.policy -o jsonpath='{.value}'",
		ValidArgsFunction: e.completeSettings,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := out.options(e)
		if err != nil {
			return err
		}
		items, err := e.settings(cmd, scope, args)
		if err != nil {
			return err
		}
		return e.showSetting(o, items[0])
	}
	out.registerFormat(c)
	e.scopeFlag(c, &scope)
	return c
}

func (e *env) showSetting(o print.Options, s v1.Setting) error {
	return e.show(o, s, func(t *text) {
		t.field("Setting", s.Name)
		t.field("Value", s.Value)
		t.field("Origin", s.Origin)
		t.field("Default", s.Default)
		t.field("Allowed", s.Allowed)
		t.field("Effect", s.Effect)
		t.field("Meaning", s.Doc)
		t.field("Set by", s.By)
		t.field("Set at", t.at(s.At))
		t.field("Reason", s.Reason)
		if !s.Expires.IsZero() {
			t.field("Expires", print.Exact(s.Expires))
		}
	})
}

func newSettingsSetCmd(e *env) *cobra.Command {
	var out outputFlags
	var scope string
	var r v1.SettingRequest
	c := &cobra.Command{
		Use: "set SETTING VALUE", Short: "Set a setting at a scope",
		Long: "Sets a setting at a scope, for good or for a while. A value out of bounds is refused and says what is allowed.",
		Example: `  holdfast settings set ha.policy observe
  holdfast settings set agent.ping.interval 2s --scope cluster/z1/p1/c1
  holdfast settings set budget.cluster 6/1h --scope cluster/z1/p1/c1 --for 4h --reason 'planned power test' --dry-run`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("takes SETTING and VALUE")
			}
			return nil
		},
		Annotations:       mayBeEmpty,
		ValidArgsFunction: e.completeSettings,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, args []string) error {
		r.Value = args[1]
		s, err := api.PutSetting(ctx, scope, args[0], r, false)
		if err != nil {
			return fmt.Errorf("set %s: %w", args[0], err)
		}
		return e.show(o, s, func(t *text) {
			t.printf("%s = %s (%s), effect: %s\n", s.Name, s.Value, s.Origin, s.Effect)
		})
	})
	out.registerFormat(c)
	e.scopeFlag(c, &scope)
	c.Flags().StringVar(&r.For, "for", "", "how long, such as 2h; without it for good")
	c.Flags().StringVar(&r.Reason, "reason", "", "why, for the record")
	e.tryable(c)
	return c
}

func newSettingsUnsetCmd(e *env) *cobra.Command {
	var out outputFlags
	var scope, reason string
	c := &cobra.Command{
		Use: "unset SETTING", Short: "Take a setting back at a scope", Args: cobra.ExactArgs(1),
		Long:              "Removes what was set at a scope and shows what holds there then. Unsetting what is not set changes nothing.",
		Example:           "  holdfast settings unset ha.policy\n  holdfast settings unset agent.ping.interval --scope cluster/z1/p1/c1 --reason 'line is fast again'\n  holdfast settings unset ha.policy --scope host/h-17 -o json",
		ValidArgsFunction: e.completeSettings,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, args []string) error {
		s, err := api.DeleteSetting(ctx, scope, args[0], reason)
		if err != nil {
			return fmt.Errorf("unset %s: %w", args[0], err)
		}
		return e.show(o, s, func(t *text) { t.printf("%s = %s (%s)\n", s.Name, s.Value, s.Origin) })
	})
	out.registerFormat(c)
	e.scopeFlag(c, &scope)
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	e.tryable(c)
	return c
}
