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
	"time"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-ha/holdfast/worker"
)

// errUsage marks what the caller of the program has to put right.
var errUsage = errors.New("bad configuration")

// config is a worker's bootstrap configuration and what else the program was asked.
type config struct {
	options worker.Options
	level   slog.Level
	version bool
}

// field is one bootstrap field: a key of the file, --name, HOLDFAST_WORKER_NAME.
type field struct {
	key, name, usage string
	set              func(*config, string) error
}

func text(at func(*worker.Options) *string) func(*config, string) error {
	return func(c *config, v string) error { *at(&c.options) = v; return nil }
}

// fields drive file, environment, flags and help alike.
var fields = []field{
	{"id", "id", "stable name of this worker, e.g. the pod's", text(func(o *worker.Options) *string { return &o.ID })},
	{"zone", "zone", "zone it runs in; its slots are taken there first", text(func(o *worker.Options) *string { return &o.Zone })},
	{"weight", "weight", "share of slots relative to others, 1 to 100 (default 1)", func(c *config, v string) (err error) {
		if c.options.Weight, err = strconv.Atoi(v); err != nil {
			err = fmt.Errorf("%q, allowed are 1 to 100", v)
		}
		return err
	}},
	{"etcd", "etcd", "etcd endpoints, comma-separated URLs", func(c *config, v string) error { c.options.Etcd = strings.Split(v, ","); return nil }},
	{"listenAPI", "listen-api", "host:port for operators (default 127.0.0.1:7080)", text(func(o *worker.Options) *string { return &o.ListenAPI })},
	{"listenAgents", "listen-agents", "host:port for agents (default 127.0.0.1:7443)", text(func(o *worker.Options) *string { return &o.ListenAgents })},
	{"advertiseAPI", "advertise-api", "address others reach the API at (default: the listening one)", text(func(o *worker.Options) *string { return &o.AdvertiseAPI })},
	{"advertiseAgents", "advertise-agents", "address agents reach it at (default: the listening one)", text(func(o *worker.Options) *string { return &o.AdvertiseAgents })},
	{"leaseTTL", "lease-ttl", "lease in etcd, 3s to 1m (default 5s)", func(c *config, v string) (err error) {
		if c.options.LeaseTTL, err = time.ParseDuration(v); err != nil {
			err = fmt.Errorf("%q, allowed are whole seconds from 3s to 1m", v)
		}
		return err
	}},
	{"restartGrace", "restart-grace", "how long an orderly end keeps the slots for the next process of this worker, 0s to 5m (default 15s; 0s gives them back at once)", func(c *config, v string) (err error) {
		if c.options.RestartGrace, err = time.ParseDuration(v); err != nil {
			err = fmt.Errorf("%q, allowed are 0s to 5m", v)
		}
		return err
	}},
	{"tlsCA", "tls-ca", "file with the authorities of the fleet's certificates", text(func(o *worker.Options) *string { return &o.TLS.CA })},
	{"tlsCert", "tls-cert", "file with this worker's certificate (holdfast://worker/ID)", text(func(o *worker.Options) *string { return &o.TLS.Cert })},
	{"tlsKey", "tls-key", "file with its key", text(func(o *worker.Options) *string { return &o.TLS.Key })},
	{"etcdCA", "etcd-ca", "file with etcd's authorities (default: as tls-…, all three)", text(func(o *worker.Options) *string { return &o.EtcdTLS.CA })},
	{"etcdCert", "etcd-cert", "file with the certificate shown to etcd", text(func(o *worker.Options) *string { return &o.EtcdTLS.Cert })},
	{"etcdKey", "etcd-key", "file with its key", text(func(o *worker.Options) *string { return &o.EtcdTLS.Key })},
	{"insecureLoopback", "insecure-loopback", "true: plaintext, with loopback addresses everywhere; for one machine alone", func(c *config, v string) (err error) {
		if c.options.InsecureLoopback, err = strconv.ParseBool(v); err != nil {
			err = fmt.Errorf("%q, allowed are true and false", v)
		}
		return err
	}},
	{"secretsDir", "secrets-dir", "directory that file: references of BMC secrets may point into", text(func(o *worker.Options) *string { return &o.SecretsDir })},
	{"logLevel", "log-level", "debug, info, warn or error (default info)", func(c *config, v string) error {
		if c.level.UnmarshalText([]byte(v)) != nil {
			return fmt.Errorf("%q, allowed are debug, info, warn, error", v)
		}
		return nil
	}},
}

// load reads file, then environment, then flags; the later one wins.
func load(args []string, getenv func(string) string) (*config, error) {
	c := &config{options: worker.Options{ListenAPI: "127.0.0.1:7080", ListenAgents: "127.0.0.1:7443", RestartGrace: 15 * time.Second}}
	given := map[string]string{}
	set := flag.NewFlagSet("holdfast-worker", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.BoolVar(&c.version, "version", false, "")
	file := set.String("config", getenv("HOLDFAST_WORKER_CONFIG"), "")
	for _, f := range fields {
		take := func(v string) error { given[f.name] = v; return nil }
		if f.name == "insecure-loopback" {
			set.BoolFunc(f.name, "", take)
			continue
		}
		set.Func(f.name, "", take)
	}
	if err := set.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w (see --help)", errUsage, err)
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("%w: argument %q: only flags are allowed (see --help)", errUsage, set.Arg(0))
	}
	if c.version {
		return c, nil
	}
	inFile, err := read(*file)
	if err != nil {
		return nil, fmt.Errorf("%w: file %s: %w", errUsage, *file, err)
	}
	for _, f := range fields {
		v, from, ok := given[f.name], "--"+f.name, false
		if _, ok = given[f.name]; !ok {
			from = "HOLDFAST_WORKER_" + strings.ToUpper(strings.ReplaceAll(f.name, "-", "_"))
			if v = getenv(from); v != "" {
				ok = true
			} else {
				from = f.key
				v, ok = inFile[f.key]
			}
		}
		if !ok {
			continue
		}
		if err := f.set(c, v); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errUsage, from, err)
		}
	}
	return c, nil
}

// read takes a file's keys; one it does not know is an error that names those it does.
func read(file string) (map[string]string, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	var raw map[string]any
	if err := yaml.UnmarshalStrict(b, &raw); err != nil {
		return nil, errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	out := map[string]string{}
	for key, v := range raw {
		if !known(key) {
			return nil, fmt.Errorf("key %q is not known, allowed are %s", key, keys())
		}
		switch v := v.(type) {
		case []any:
			var parts []string
			for _, p := range v {
				parts = append(parts, fmt.Sprint(p))
			}
			out[key] = strings.Join(parts, ",")
		case string, float64, bool:
			out[key] = fmt.Sprint(v)
		default:
			return nil, fmt.Errorf("key %q: want a word, a number or a list of words", key)
		}
	}
	return out, nil
}

func known(key string) bool {
	for _, f := range fields {
		if f.key == key {
			return true
		}
	}
	return false
}

func keys() string {
	var all []string
	for _, f := range fields {
		all = append(all, f.key)
	}
	return strings.Join(all, ", ")
}

// usage is the help text.
func usage() string {
	var b strings.Builder
	b.WriteString("holdfast-worker owns hosts: it watches, decides, fences and answers operators.\n\nUsage: holdfast-worker --config FILE\n\n")
	line := func(name, text string) { fmt.Fprintf(&b, "  --%-17s %s\n", name, text) }
	line("config", "configuration file (YAML)")
	for _, f := range fields {
		line(f.name, f.usage)
	}
	line("version", "print the version, and exit")
	b.WriteString("\nFlags beat HOLDFAST_WORKER_… variables (--lease-ttl: HOLDFAST_WORKER_LEASE_TTL), which beat the file (leaseTTL).\n")
	return b.String()
}
