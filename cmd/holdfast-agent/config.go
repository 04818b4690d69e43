// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
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
	LibvirtURI string       `json:"libvirtURI"` // default qemu:///system
	LogLevel   string       `json:"logLevel"`
	TLS        tlsConfig    `json:"tls"`
	Pools      []poolConfig `json:"pools"`
	// JoinToken is a file with a join token, instead of tls.
	JoinToken string `json:"joinToken"`
	// ListenMetrics is where /metrics is shown; nowhere by default.
	ListenMetrics string `json:"listenMetrics"`
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

// poolConfig is one pool: nfs, a directory that other hosts mount too, the default, or
// local. Unless Mountpoint is false, the path of a shared one must be a mount point
// whenever it is used: an unmounted directory must not pass for the pool. Local ones are
// checked so if Mountpoint is true.
type poolConfig struct {
	ID         string              `json:"id"`
	Type       hypervisor.PoolType `json:"type"`
	Path       string              `json:"path"`
	Mountpoint *bool               `json:"mountpoint"`
}

func (p poolConfig) dir() dirs.Dir {
	d := dirs.Dir{ID: p.ID, Type: cmp.Or(p.Type, hypervisor.NFS), Path: p.Path}
	d.Mount = d.Type == hypervisor.NFS
	if p.Mountpoint != nil {
		d.Mount = *p.Mountpoint
	}
	return d
}

// fields can be given as flag --NAME and as HOLDFAST_AGENT_NAME.
var fields = []struct {
	name, usage string
	at          func(*config) *string
}{
	{"host", "this host's id", func(c *config) *string { return &c.Host }},
	{"state-dir", "directory of the agent's own state (default /var/lib/holdfast-agent)", func(c *config) *string { return &c.StateDir }},
	{"hypervisor", "hypervisor of this host: " + builtWith(), func(c *config) *string { return &c.Hypervisor }},
	{"libvirt-uri", "libvirt's address (default qemu:///system)", func(c *config) *string { return &c.LibvirtURI }},
	{"listen-metrics", "host:port of /metrics (default none); other than loopback: TLS, for operators", func(c *config) *string { return &c.ListenMetrics }},
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
	o := agent.Options{Host: c.Host, Workers: c.Workers, StateDir: c.StateDir, Version: version, ListenMetrics: c.ListenMetrics}
	open, known := hypervisors[c.Hypervisor]
	if !known {
		return o, fmt.Errorf("%w: hypervisor %q: this agent was built with: %s", errUsage, c.Hypervisor, builtWith())
	}
	var all []dirs.Dir
	for _, p := range c.Pools {
		d := p.dir()
		pool, err := probe.NewDir(d.ID, d.Path, d.Mount)
		if err != nil {
			return o, fmt.Errorf("%w: pools: %w", errUsage, err)
		}
		if d.Type == hypervisor.NFS { // what no other host has proves nothing to it
			o.Pools = append(o.Pools, pool)
		}
		all = append(all, d)
	}
	if _, err := dirs.New(dirs.Config{Dirs: all}); err != nil {
		return o, fmt.Errorf("%w: %w", errUsage, err)
	}
	var err error
	if o.Hypervisor, err = open(c.LibvirtURI, all); err != nil {
		return o, fmt.Errorf("%w: hypervisor %s: %w", errUsage, c.Hypervisor, err)
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
	b.WriteString("\nFlags beat HOLDFAST_AGENT_… variables (--state-dir: HOLDFAST_AGENT_STATE_DIR), which beat the file.\nPools are configured in the file: pools: [{id: p1, path: /mnt/p1}, {id: own, type: local, path: /srv/own}]\n")
	return b.String()
}

// hypervisors are the adapters linked into this binary, by configuration name. They are
// opened with libvirt's address and the host's pools.
var hypervisors = map[string]func(uri string, pools []dirs.Dir) (hypervisor.Hypervisor, error){
	"none": func(string, []dirs.Dir) (hypervisor.Hypervisor, error) { return hostonly.Host{}, nil },
}

// builtWith says which hypervisors this binary knows.
func builtWith() string {
	text := strings.Join(slices.Sorted(maps.Keys(hypervisors)), ", ")
	if hypervisors["libvirt"] == nil {
		text += " (libvirt comes with the libvirt build)"
	}
	return text
}
