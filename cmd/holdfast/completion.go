// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newCompletionCmd is `holdfast completion`: scripts for four shells.
func newCompletionCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish|powershell", Short: "Print the completion script of a shell",
		Long: "Prints a script that makes the shell complete commands, flags and the live names of hosts, partitions and settings.\nA fleet that does not answer within a second completes nothing.",
		Example: `  # bash, for this shell
  source <(holdfast completion bash)

  # zsh, for good
  holdfast completion zsh > "${fpath[1]}/_holdfast"

  # fish
  holdfast completion fish > ~/.config/fish/completions/holdfast.fish`,
		Args: cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs), ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(e.Stdout, true)
			case "zsh":
				return root.GenZshCompletion(e.Stdout)
			case "fish":
				return root.GenFishCompletion(e.Stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(e.Stdout)
			}
			return fmt.Errorf("completion: %q: no script for this shell", args[0])
		},
	}
}

// complete lists live names; a fleet that does not answer soon has none.
func complete[T any](e *env, cmd *cobra.Command, list func(*v1.Client, context.Context) ([]T, error), name func(T) string) ([]string, cobra.ShellCompDirective) {
	api, err := e.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	items, err := list(api, ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, i := range items {
		out = append(out, name(i))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func allHosts(api *v1.Client, ctx context.Context) ([]v1.Host, error) {
	return api.Hosts(ctx, v1.HostQuery{})
}

func (e *env) completeHosts(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return complete(e, cmd, allHosts, func(h v1.Host) string { return h.Spec.ID })
}

func (e *env) completePartitions(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return complete(e, cmd, (*v1.Client).Partitions, partitionsTable.Name)
}

func (e *env) completeWorkers(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return complete(e, cmd, (*v1.Client).Workers, workersTable.Name)
}

func (e *env) completeAreas(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return complete(e, cmd, (*v1.Client).Areas, areasTable.Name)
}

func (e *env) completeIncidents(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return complete(e, cmd, func(api *v1.Client, ctx context.Context) ([]v1.Incident, error) { return api.Incidents(ctx, "") }, incidentsTable.Name)
}

func (e *env) completeSettings(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 && cmd.Name() == "set" {
		return nil, cobra.ShellCompDirectiveNoFileComp // the value
	}
	return complete(e, cmd, func(api *v1.Client, ctx context.Context) ([]v1.Setting, error) { return api.Settings(ctx, "") }, settingsTable.Name)
}

// completeScopes offers every partition with its kind, and every host.
func (e *env) completeScopes(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	out := []string{"global"}
	paths, _ := e.completePartitions(cmd, args, word)
	for _, p := range paths {
		out = append(out, scopeOfPath(p))
	}
	hosts, _ := e.completeHosts(cmd, args, word)
	for _, h := range hosts {
		out = append(out, "host/"+h)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeFlag sets the completion of a flag that the caller has just added.
func (e *env) completeFlag(c *cobra.Command, flag string, f completer) {
	_ = c.RegisterFlagCompletionFunc(flag, f) // fails only for a flag that is not there
}
