// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
)

// config is the tool's own file: named contexts and the one in use.
type config struct {
	Current  string                  `json:"current,omitempty"`
	Contexts map[string]contextEntry `json:"contexts,omitempty"`
}

// contextEntry is one fleet.
type contextEntry struct {
	Endpoints []string `json:"endpoints"`          // tried in order
	CACert    string   `json:"cacert,omitempty"`   // file with the authorities of the workers' certificates
	Cert      string   `json:"cert,omitempty"`     // file with the operator's own certificate
	Key       string   `json:"key,omitempty"`      // file with its key
	PID       int      `json:"pid,omitempty"`      // a dev fleet: the entry counts only while this process lives
	Started   string   `json:"started,omitempty"`  // a dev fleet: start time of that process, see processStart; guards against a pid used again
	Previous  string   `json:"previous,omitempty"` // a dev fleet: the context that was current before, taken up again when it is gone
}

// alive says whether the entry counts: an ordinary one always does.
func (c contextEntry) alive() bool {
	if c.PID == 0 {
		return true
	}
	if err := syscall.Kill(c.PID, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	now := processStart(c.PID)
	return now != "" && (c.Started == "" || c.Started == now)
}

// processStart is the start time of a living process in clock ticks since boot, as the
// kernel prints it; empty for one that is gone or a zombie.
func processStart(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The second field is the name in parentheses and may hold anything: count from its end.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return ""
	}
	return f[19]
}

// configPath is where the tool's file is: XDG_CONFIG_HOME, else ~/.config.
func configPath(e *env) (string, error) {
	dir := e.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home := e.Getenv("HOME")
		if home == "" {
			return "", errors.New("find the configuration: neither XDG_CONFIG_HOME nor HOME is set")
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "holdfast", "config.yaml"), nil
}

// loadConfig reads the file. One that is not there is empty; unknown keys are errors.
func loadConfig(e *env) (config, error) {
	path, err := configPath(e)
	if err != nil {
		return config{}, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config{}, nil
	}
	if err != nil {
		return config{}, fmt.Errorf("read configuration: %w", err)
	}
	var c config
	if err := yaml.UnmarshalStrict(b, &c); err != nil {
		return config{}, usage(fmt.Errorf("read configuration %s: %w", path, err))
	}
	return c, nil
}

// saveConfig replaces the file as a whole: a reader, a crash or a full disk sees the
// old one or the new one.
func saveConfig(e *env, c config) error {
	path, err := configPath(e)
	if err != nil {
		return err
	}
	b, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "config-*.tmp")
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write configuration: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// effective is the name of the context in use, past dev fleets that are gone; empty if
// there is none.
func (c config) effective() string {
	name := c.Current
	for range len(c.Contexts) + 1 {
		entry, ok := c.Contexts[name]
		if !ok || entry.alive() {
			return name
		}
		name = entry.Previous
	}
	return ""
}

// entry is the fleet to talk to: addresses from --endpoint, --context, HOLDFAST_ENDPOINT,
// then the current context; certificate files from flags, the environment, then the
// context that is used.
func (e *env) entry() (contextEntry, error) {
	explicit := e.endpoint
	if explicit == "" && e.context == "" {
		explicit = e.Getenv("HOLDFAST_ENDPOINT")
	}
	var entry contextEntry
	if explicit == "" || e.context != "" {
		var err error
		if entry, err = e.contextEntry(); err != nil {
			return contextEntry{}, err
		}
	}
	if explicit != "" {
		entry.Endpoints = strings.FieldsFunc(explicit, func(r rune) bool { return r == ',' || r == ' ' })
	}
	for _, f := range e.certFlags() {
		if v := *f.flag; v != "" {
			*f.at(&entry) = v
		} else if v := e.Getenv(f.variable); v != "" {
			*f.at(&entry) = v
		}
	}
	return entry, nil
}

// contextEntry is the context named by --context, else the current one.
func (e *env) contextEntry() (contextEntry, error) {
	c, err := loadConfig(e)
	if err != nil {
		return contextEntry{}, err
	}
	name := e.context
	if name == "" {
		name = c.effective()
	}
	if name == "" {
		return contextEntry{}, &hintError{usage(errors.New("no fleet to talk to: neither --endpoint, HOLDFAST_ENDPOINT nor a current context is set")),
			"start one with 'holdfast dev', or name yours: holdfast context set prod --endpoint https://worker-1:7080 --cacert ca.crt --cert me.crt --key me.key"}
	}
	entry, ok := c.Contexts[name]
	if !ok {
		names := slices.Sorted(maps.Keys(c.Contexts))
		return contextEntry{}, &exitError{fmt.Errorf("context %q: not in the configuration, there are: %s", name, orNone(strings.Join(names, ", "))), exitNotFound}
	}
	if !entry.alive() {
		return contextEntry{}, &hintError{fmt.Errorf("context %q: its dev fleet (process %d) is gone", name, entry.PID), "start one with 'holdfast dev'"}
	}
	if len(entry.Endpoints) == 0 {
		return contextEntry{}, usage(fmt.Errorf("context %q: endpoints: empty, at least one is needed", name))
	}
	return entry, nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// contextRow is one line of `context list`.
type contextRow struct {
	Name      string   `json:"name"`
	Current   bool     `json:"current"`
	Alive     bool     `json:"alive"`
	Endpoints []string `json:"endpoints"`
}

// newContextCmd is `holdfast context`: which fleet the tool talks to.
func newContextCmd(e *env) *cobra.Command {
	table := print.Table[contextRow]{
		Kind: "context", Plural: "contexts",
		Name: func(r contextRow) string { return r.Name },
		Columns: []print.Column[contextRow]{
			{Name: "CURRENT", Value: func(r contextRow) any {
				if r.Current {
					return "*"
				}
				return ""
			}},
			{Name: "NAME", Value: func(r contextRow) any { return r.Name }},
			{Name: "STATE", Value: func(r contextRow) any {
				if r.Alive {
					return "ready"
				}
				return "gone"
			}},
			{Name: "ENDPOINTS", Value: func(r contextRow) any { return strings.Join(r.Endpoints, ",") }},
		},
	}
	var out outputFlags
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the contexts", Args: cobra.NoArgs,
		Long:    "Lists the contexts and marks the one in use. A dev fleet that has ended is shown as gone and never used.",
		Example: "  holdfast context list\n  holdfast context list -o json\n  holdfast context list -o name",
		RunE: func(*cobra.Command, []string) error {
			c, err := loadConfig(e)
			if err != nil {
				return err
			}
			o, err := out.options(e)
			if err != nil {
				return err
			}
			var rows []contextRow
			for _, n := range slices.Sorted(maps.Keys(c.Contexts)) {
				entry := c.Contexts[n]
				rows = append(rows, contextRow{n, n == c.effective(), entry.alive(), entry.Endpoints})
			}
			return table.List(e.Stdout, e.Stderr, o, rows)
		},
	}
	out.register(list)
	use := &cobra.Command{
		Use: "use NAME", Short: "Make a context the current one", Args: cobra.ExactArgs(1),
		Long:              "Makes a context the one that is used when nothing else is said. HOLDFAST_ENDPOINT, --context and --endpoint go before it.",
		Example:           "  holdfast context use prod\n  holdfast context use dev\n  holdfast --context prod get hosts   # for once only",
		ValidArgsFunction: e.completeContexts,
		RunE: func(_ *cobra.Command, args []string) error {
			return changeContexts(e, args[0], func(c *config) error { c.Current = args[0]; return nil })
		},
	}
	set := &cobra.Command{
		Use: "set NAME --endpoint URL[,URL…] [--cacert FILE --cert FILE --key FILE]", Short: "Add or change a context", Args: cobra.ExactArgs(1),
		Long:    "Gives the addresses of a fleet's workers and the certificate files to show them a name. The first context becomes the current one; nobody is asked.",
		Example: "  holdfast context set prod --endpoint https://worker-1:7080 --cacert ca.crt --cert me.crt --key me.key\n  holdfast context set prod --endpoint https://worker-1:7080,https://worker-2:7080 --cacert ca.crt --cert me.crt --key me.key\n  holdfast context set here --endpoint http://127.0.0.1:7080   # plaintext: this machine only",
		RunE: func(_ *cobra.Command, args []string) error {
			if e.endpoint == "" {
				return usage(errors.New("context set: --endpoint: empty, at least one is needed"))
			}
			entry, err := e.entry()
			if err != nil {
				return err
			}
			if _, err := e.client(); err != nil { // checks addresses and files, asks nobody
				return err
			}
			for _, f := range e.certFlags() {
				if at := f.at(&entry); *at != "" {
					if *at, err = filepath.Abs(*at); err != nil {
						return fmt.Errorf("find file %s: %w", *at, err)
					}
				}
			}
			return changeContexts(e, "", func(c *config) error {
				if c.Contexts == nil {
					c.Contexts = map[string]contextEntry{}
				}
				c.Contexts[args[0]] = contextEntry{Endpoints: entry.Endpoints, CACert: entry.CACert, Cert: entry.Cert, Key: entry.Key}
				if c.Current == "" {
					c.Current = args[0]
				}
				return nil
			})
		},
	}
	del := &cobra.Command{
		Use: "delete NAME", Short: "Forget a context", Args: cobra.ExactArgs(1),
		Long:              "Removes a context from the configuration. The fleet itself is not touched.",
		Example:           "  holdfast context delete lab\n  holdfast context list\n  holdfast context use prod",
		ValidArgsFunction: e.completeContexts,
		RunE: func(_ *cobra.Command, args []string) error {
			return changeContexts(e, args[0], func(c *config) error {
				delete(c.Contexts, args[0])
				if c.Current == args[0] {
					c.Current = ""
				}
				return nil
			})
		},
	}
	return group("context", "Choose the fleet this tool talks to",
		"A context is a name for the addresses of a fleet's workers; they are tried in order. `holdfast dev` adds a context `dev` that counts only while it runs.",
		`  # name a fleet and use it
  holdfast context set prod --endpoint https://worker-1:7080 --cacert ca.crt --cert me.crt --key me.key
  holdfast context use prod

  # which ones there are
  holdfast context list

  # for one command only
  holdfast --context prod get hosts`, list, use, set, del)
}

func (e *env) completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	c, err := loadConfig(e)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Sorted(maps.Keys(c.Contexts)), cobra.ShellCompDirectiveNoFileComp
}

// changeContexts edits the file; must, if not empty, has to be one of its contexts.
func changeContexts(e *env, must string, change func(*config) error) error {
	c, err := loadConfig(e)
	if err != nil {
		return err
	}
	if _, ok := c.Contexts[must]; must != "" && !ok {
		return &exitError{fmt.Errorf("context %q: not in the configuration, there are: %s", must, orNone(strings.Join(slices.Sorted(maps.Keys(c.Contexts)), ", "))), exitNotFound}
	}
	if err := change(&c); err != nil {
		return err
	}
	return saveConfig(e, c)
}
