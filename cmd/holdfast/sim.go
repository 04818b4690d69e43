// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/metal"
)

const (
	simPort     = 6230
	simPassword = "simulated"
	simViewer   = "viewer" // a second account, which may read only
)

// newSimCmd is `holdfast sim`: simulated devices for testing any fencing tool.
func newSimCmd(e *env) *cobra.Command {
	return group("sim", "Run simulated BMCs, Redfish services and PDUs",
		"Simulated management devices on loopback, without Holdfast: for testing any tool that fences. `holdfast dev` is a fleet with Holdfast in it.",
		`  # ten thousand BMCs; any address of 127.10.0.0/16 from .0.1 on is one
  holdfast sim bmc --count 10000
  ipmitool -I lanplus -H 127.10.39.16 -p 6230 -U admin -P simulated power status

  # make one lie, from another terminal
  holdfast sim set '{"hosts": "7", "bmc": {"say_off": true}}'
  holdfast sim status --hosts 1-10`,
		newSimBMCCmd(e), newSimSetCmd(e), newSimStatusCmd(e), newSimPowerCmd(e), newSimInventoryCmd(e))
}

// simOptions say which devices to simulate.
type simOptions struct {
	count, redfish, pdus         int
	listen, user, password       string // password: a file
	port                         uint16
	seed                         uint64
	faults, truth, inventory     string
	offAfter, onAfter, softAfter time.Duration
}

func newSimBMCCmd(e *env) *cobra.Command {
	var o simOptions
	var presets strings.Builder
	for _, p := range metal.Presets() {
		fmt.Fprintf(&presets, "\n  %-8s %s", p.Name, p.Text)
	}
	c := &cobra.Command{
		Use: "bmc", Short: "Run BMCs until Ctrl-C", Args: cobra.NoArgs,
		Long: "Runs simulated hosts, each with a BMC that speaks IPMI 2.0 over LAN (RMCP+, cipher suites 3 and 17), all in this process and on loopback addresses that need no configuration.\n" +
			"The first --redfish hosts also have a Redfish service, on the same address and the next port. --pdu makes pairs of PDUs that speak SNMP as those of APC do, with 24 outlets each, at the addresses behind the last BMC and the port after that; a host without either outlet is dark, and its BMC too. The SNMP community is the password.\n" +
			"The account " + simViewer + " with the same password may read but not switch.\n" +
			"The inventory goes to standard output as lines of JSON, unless that is a terminal; see also `holdfast sim inventory`.\n" +
			"Presets of --faults:\n" + presets.String() + "\n\nA FILE has rules like `holdfast sim set` takes.",
		Example: `  holdfast sim bmc
  holdfast sim bmc --count 10000 --faults dead --seed 7 --truth truth.jsonl > inventory.jsonl
  holdfast sim bmc --count 240 --redfish 100 --pdu 20 --off-after 4s`,
		RunE: func(cmd *cobra.Command, _ []string) error { return simBMC(cmd.Context(), e, o) },
	}
	f := c.Flags()
	f.IntVar(&o.count, "count", 10, fmt.Sprintf("hosts, 1 to %d", metal.MaxHosts))
	f.StringVar(&o.listen, "listen", "127.10.0.0/16", "network within 127.0.0.0/8; its first address is the first BMC's")
	f.Uint16Var(&o.port, "port", simPort, "UDP port of all BMCs; Redfish and PDUs take the two behind it")
	f.StringVar(&o.user, "user", "admin", "name of the administrator's account")
	f.StringVar(&o.password, "password-file", "", "file with the password (default: the password is "+simPassword+")")
	f.Uint64Var(&o.seed, "seed", 1, "of identities, random faults, and the choice of sick hosts")
	f.StringVar(&o.faults, "faults", "healthy", "preset, or FILE with rules in JSON")
	f.StringVar(&o.truth, "truth", "", "FILE for the truth log: every command, as lines of JSON")
	f.StringVar(&o.inventory, "inventory", "", "FILE for the inventory, - for standard output even if it is a terminal")
	f.IntVar(&o.redfish, "redfish", 0, fmt.Sprintf("hosts with a Redfish service, up to %d", metal.MaxFaces))
	f.IntVar(&o.pdus, "pdu", 0, "PDUs, an even number")
	f.DurationVar(&o.offAfter, "off-after", 0, "time from a hard off to power off")
	f.DurationVar(&o.onAfter, "on-after", 0, "time from an on to power on")
	f.DurationVar(&o.softAfter, "soft-after", 5*time.Second, "time from a soft off to power off; negative: it is ignored")
	return c
}

// config checks the options.
func (o simOptions) config() (metal.Config, error) {
	network, err := netip.ParsePrefix(o.listen)
	if err != nil {
		return metal.Config{}, usage(fmt.Errorf("listen: %q, allowed is a network like 127.10.0.0/16", o.listen))
	}
	password := simPassword
	if o.password != "" {
		b, err := os.ReadFile(o.password)
		if err != nil {
			return metal.Config{}, usage(fmt.Errorf("password-file: %w", err))
		}
		password = strings.TrimRight(string(b), "\r\n")
	}
	if len(password) < 1 || len(password) > 20 {
		return metal.Config{}, usage(fmt.Errorf("password-file: %s has %d bytes, allowed are 1 to 20", o.password, len(password)))
	}
	if len(o.user) < 1 || len(o.user) > 16 || o.user == simViewer {
		return metal.Config{}, usage(fmt.Errorf("user: %q, allowed is a name of 1 to 16 bytes other than %s", o.user, simViewer))
	}
	for _, d := range []time.Duration{o.offAfter, o.onAfter} {
		if d < 0 || d > time.Hour {
			return metal.Config{}, usage(fmt.Errorf("off-after, on-after: %s, allowed is 0 to 1h", d))
		}
	}
	return metal.Config{
		Hosts: o.count, Network: network, Port: o.port, Redfish: o.redfish, PDUs: o.pdus, Seed: o.seed, Community: password,
		Users: []bmc.User{{Name: o.user, Password: password, Privilege: bmc.Administrator}, {Name: simViewer, Password: password, Privilege: bmc.UserLevel}},
		Chassis: bmc.ChassisConfig{
			OffLatency: o.offAfter, OnLatency: o.onAfter, SoftLatency: o.softAfter, CycleGap: time.Second,
		},
	}, nil
}

// simRules finds rules by the name of a preset, as JSON, or in a file.
func simRules(text string) ([]metal.Rule, error) {
	if rules, ok := metal.PresetRules(text); ok {
		return rules, nil
	}
	raw := []byte(text)
	if t := strings.TrimSpace(text); !strings.HasPrefix(t, "{") && !strings.HasPrefix(t, "[") {
		b, err := os.ReadFile(text)
		if err != nil {
			names := mapped(metal.Presets(), func(p metal.Preset) string { return p.Name })
			return nil, usage(fmt.Errorf("faults: %w; allowed are a file and the presets %s", err, strings.Join(names, ", ")))
		}
		raw = b
	}
	rules, err := metal.ParseRules(raw)
	if err != nil {
		return nil, usage(fmt.Errorf("faults: %w", err))
	}
	return rules, nil
}

// simBMC runs the devices until it is interrupted.
func simBMC(ctx context.Context, e *env, o simOptions) (err error) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP) // the terminal is gone
	defer stop()
	// Ten thousand BMCs are 20 MiB; without this the collector lets garbage grow to as much again.
	debug.SetGCPercent(20)
	cfg, err := o.config()
	if err != nil {
		return err
	}
	rules, err := simRules(o.faults)
	if err != nil {
		return err
	}
	var truth *bmc.TruthWriter
	if o.truth != "" {
		file, err := os.OpenFile(o.truth, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
		if err != nil {
			return usage(fmt.Errorf("truth: %w", err))
		}
		truth = bmc.NewTruthWriter(file)
		cfg.OnCommand = truth.Record
		defer func() { err = errors.Join(err, truth.Err(), file.Close()) }()
	}
	f, err := metal.New(cfg)
	if err != nil {
		return usage(err)
	}
	if err := f.Apply(rules); err != nil {
		return usage(err)
	}
	if err := f.Listen(); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return &hintError{err, "something else uses that port; take another with --port"}
		}
		return err
	}
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return f.Run(ctx) })
	work.Go(func() error { return serveOrders(ctx, simSocket(o.port), simOrders(f)) })
	work.Go(func() error { return o.announce(e, f) })
	return work.Wait()
}

// announce prints the inventory and says that all is there.
func (o simOptions) announce(e *env, f *metal.Fleet) error {
	switch {
	case o.inventory == "-" || o.inventory == "" && !e.IsTTY(e.Stdout):
		if err := writeInventory(e.Stdout, f.Inventory()); err != nil {
			return err
		}
	case o.inventory != "":
		var b bytes.Buffer
		if err := writeInventory(&b, f.Inventory()); err != nil {
			return err
		}
		if err := os.WriteFile(o.inventory, b.Bytes(), 0o644); err != nil {
			return usage(fmt.Errorf("inventory: %w", err))
		}
	}
	first := f.Inventory()[0]
	debug.FreeOSMemory() // the inventory was the most that is ever needed at once
	_, err := fmt.Fprintf(e.Stderr, "ready: %d BMCs from %s on at UDP port %d, %d Redfish services, %d PDUs; Ctrl-C ends it\n", o.count, first.Address, o.port, o.redfish, o.pdus)
	if err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	return nil
}

func writeInventory(w io.Writer, items []metal.Item) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, i := range items {
		if err := enc.Encode(i); err != nil {
			return fmt.Errorf("encode inventory: %w", err)
		}
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write inventory: %w", err)
	}
	return nil
}
