// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/hostonly"
	"github.com/holdfast-ha/holdfast/agent/probe"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// errUsage marks what the caller of the program has to put right.
var errUsage = errors.New("bad configuration")

// config is the file; the fields of the table below come from the environment and from
// flags as well.
type config struct {
	Host       string       `json:"host"`
	Workers    []string     `json:"workers"`
	StateDir   string       `json:"stateDir"`
	Hypervisor string       `json:"hypervisor"`
	LogLevel   string       `json:"logLevel"`
	TLS        tlsConfig    `json:"tls"`
	Pools      []poolConfig `json:"pools"`
	// JoinToken is a file with a join token, instead of tls.
	JoinToken string `json:"joinToken"`
	// InsecureLoopback is plaintext, to workers on this machine only.
	InsecureLoopback bool `json:"insecureLoopback"`

	level   slog.Level
	version bool
}

// tlsConfig names the certificate files.
type tlsConfig struct {
	CA   string `json:"ca"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// poolConfig is one shared pool. Unless Mountpoint is false, Path must be a mount point
// whenever it is used: an unmounted directory must not pass for the pool.
type poolConfig struct {
	ID         string `json:"id"`
	Path       string `json:"path"`
	Mountpoint *bool  `json:"mountpoint"`
}

// fields can be given as flag --NAME and as HOLDFAST_AGENT_NAME.
var fields = []struct {
	name, usage string
	at          func(*config) *string
}{
	{"host", "this host's id", func(c *config) *string { return &c.Host }},
	{"state-dir", "directory of the agent's own state (default /var/lib/holdfast-agent)", func(c *config) *string { return &c.StateDir }},
	{"hypervisor", "hypervisor of this host: " + builtWith(), func(c *config) *string { return &c.Hypervisor }},
	{"log-level", "debug, info, warn or error (default info)", func(c *config) *string { return &c.LogLevel }},
	{"tls-cert", "file with this host's certificate (holdfast://host/ID)", func(c *config) *string { return &c.TLS.Cert }},
	{"tls-key", "file with its key", func(c *config) *string { return &c.TLS.Key }},
	{"join-token", "file with a join token, instead of certificate files", func(c *config) *string { return &c.JoinToken }},
	{"tls-ca", "file with the workers' certificate authorities", func(c *config) *string { return &c.TLS.CA }},
}

// loopbackFlag is the one flag that may stand without a value.
const loopbackFlag = "insecure-loopback"

// load reads file, then environment, then flags.
func load(args []string, getenv func(string) string) (*config, error) {
	c := &config{StateDir: "/var/lib/holdfast-agent", LogLevel: "info"}
	given := map[string]string{}
	set := flag.NewFlagSet("holdfast-agent", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.BoolVar(&c.version, "version", false, "")
	set.BoolFunc(loopbackFlag, "", func(v string) error { given[loopbackFlag] = v; return nil })
	for _, name := range names() {
		set.Func(name, "", func(v string) error { given[name] = v; return nil })
	}
	if err := set.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w (see --help)", errUsage, err)
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("%w: argument %q: only flags are allowed (see --help)", errUsage, set.Arg(0))
	}
	for _, name := range append(names(), loopbackFlag) {
		if _, found := given[name]; found {
			continue
		}
		if v := getenv("HOLDFAST_AGENT_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))); v != "" {
			given[name] = v
		}
	}
	if file := given["config"]; file != "" {
		if err := c.read(file); err != nil {
			return nil, fmt.Errorf("%w: file %s: %w", errUsage, file, err)
		}
	}
	if list, found := given["workers"]; found {
		c.Workers = strings.Split(list, ",")
	}
	for _, f := range fields {
		if v, found := given[f.name]; found {
			*f.at(c) = v
		}
	}
	if v, found := given[loopbackFlag]; found {
		var err error
		if c.InsecureLoopback, err = strconv.ParseBool(v); err != nil {
			return nil, fmt.Errorf("%w: insecureLoopback: %q, allowed are true and false", errUsage, v)
		}
	}
	if err := c.level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, fmt.Errorf("%w: logLevel %q is not one of debug, info, warn, error", errUsage, c.LogLevel)
	}
	return c, nil
}

// names are all flags with a value.
func names() []string {
	all := []string{"config", "workers"}
	for _, f := range fields {
		all = append(all, f.name)
	}
	return all
}

// read takes over a file; a key it does not know is an error.
func (c *config) read(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return errors.Unwrap(err)
	}
	if err := yaml.UnmarshalStrict(b, c); err != nil {
		line := err.Error()
		for _, noise := range []string{"error unmarshaling JSON: ", "error converting YAML to JSON: ", "while decoding JSON: ", "json: ", "yaml: "} {
			line = strings.ReplaceAll(line, noise, "")
		}
		return errors.New(strings.Join(strings.Fields(line), " "))
	}
	return nil
}

// options turns the configuration into an agent's.
func (c *config) options() (agent.Options, error) {
	o := agent.Options{Host: c.Host, Workers: c.Workers, StateDir: c.StateDir, Version: version}
	open, known := hypervisors[c.Hypervisor]
	if !known {
		return o, fmt.Errorf("%w: hypervisor %q: this agent was built with: %s", errUsage, c.Hypervisor, builtWith())
	}
	o.Hypervisor = open()
	for _, p := range c.Pools {
		pool, err := probe.NewDir(p.ID, p.Path, p.Mountpoint == nil || *p.Mountpoint)
		if err != nil {
			return o, fmt.Errorf("%w: pools: %w", errUsage, err)
		}
		o.Pools = append(o.Pools, pool)
	}
	o.TLS, o.JoinToken, o.InsecureLoopback = trust.Files(c.TLS), c.JoinToken, c.InsecureLoopback
	return o, nil
}

// usage is the help text.
func usage() string {
	var b strings.Builder
	b.WriteString("holdfast-agent keeps one host linked to Holdfast's workers.\n\nUsage: holdfast-agent --config FILE\n\n")
	line := func(name, text string) { fmt.Fprintf(&b, "  --%-18s %s\n", name, text) }
	line("config", "configuration file (YAML)")
	line("workers", "host:port,… of the first workers to ask")
	for _, f := range fields {
		line(f.name, f.usage)
	}
	line(loopbackFlag, "plaintext, to workers on this machine only")
	line("version", "print version and hypervisors, and exit")
	b.WriteString("\nFlags beat HOLDFAST_AGENT_… variables (--state-dir: HOLDFAST_AGENT_STATE_DIR), which beat the file.\nPools are configured in the file: pools: [{id: p1, path: /mnt/p1}]\n")
	return b.String()
}

// hypervisors are the adapters linked into this binary, by configuration name.
var hypervisors = map[string]func() hypervisor.Hypervisor{
	"none": func() hypervisor.Hypervisor { return hostonly.Host{} },
}

// builtWith says which hypervisors this binary knows.
func builtWith() string { return "none (libvirt comes with the libvirt build)" }
