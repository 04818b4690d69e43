// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/sim/fleet"
)

// simulateOptions say what is simulated.
type simulateOptions struct {
	topology, script, format string
	lose                     []string
	lasts                    time.Duration
	live, verbs              bool
	seed                     uint64
}

// newSimulateCmd is `holdfast simulate`: what would happen, on virtual time.
func newSimulateCmd(e *env) *cobra.Command {
	var o simulateOptions
	c := &cobra.Command{
		Use: "simulate", Short: "Tell what would happen to a fleet, and why",
		Long: "Plays a script against a simulated fleet on virtual time and tells the story: what happened when, what was decided and why, what would have changed it.\n" +
			"The engine that decides is the one that runs in production; hosts, devices, networks and time are simulated. Nothing is touched, also with --from-live, which only reads hosts, switches and settings through the API.\n" +
			"The same topology, script and seed give the same story. Topology, script and all verbs: docs/simulate.md, or --verbs.",
		Example: `  # what would you do if rack 7 lost power?
  holdfast simulate --from-live --lose rack=7

  # a fleet and a disaster of my own
  holdfast simulate --topology fleet.yaml --script disaster.txt
  holdfast simulate --topology fleet.yaml --lose switch=sw-r1 --for 1h -o json`,
		Args: cobra.NoArgs,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error { return e.simulate(cmd, o) }
	f := c.Flags()
	f.StringVar(&o.topology, "topology", "", "file with the fleet, YAML or JSON")
	f.StringVar(&o.script, "script", "", "file with what happens, one line each: <when> <what>")
	f.BoolVar(&o.live, "from-live", false, "read the fleet from the API instead of a file; nothing of it is changed")
	f.StringArrayVar(&o.lose, "lose", nil, "something that is lost at once: rack=7, switch=sw1, pdu=p1, pool=nfs1, net=oob, host=h3, worker=w1, etcd=all")
	f.DurationVar(&o.lasts, "for", 30*time.Minute, "how much time is simulated after --lose")
	f.Uint64Var(&o.seed, "seed", 0, "another seed than the topology's: other jitter, same rules")
	f.BoolVar(&o.verbs, "verbs", false, "list what a script can have happen")
	f.StringVarP(&o.format, "output", "o", "text", "text, json, or topology: the fleet as a file that --topology reads")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json", "topology"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists: line above
	return c
}

func (e *env) simulate(cmd *cobra.Command, o simulateOptions) error {
	if o.verbs {
		for _, v := range fleet.Verbs() {
			if _, err := fmt.Fprintf(e.Stdout, "%-12s %s\n             %s\n", v[0], v[1], v[2]); err != nil {
				return printError(err)
			}
		}
		return nil
	}
	top, err := e.simulatedFleet(cmd, o)
	if err != nil {
		return err
	}
	if o.seed != 0 {
		top.Seed = o.seed
	}
	if o.format == "topology" {
		return printError(writeYAML(e.Stdout, top))
	}
	text, err := o.scriptText()
	if err != nil {
		return err
	}
	script, err := fleet.ParseScript(text)
	if err != nil {
		return usage(err)
	}
	f := fleet.New(top)
	if err := f.Play(script); err != nil {
		return usage(err)
	}
	r := f.Result()
	switch o.format {
	case "json":
		enc := json.NewEncoder(e.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	case "text":
		err = r.Write(e.Stdout)
	default:
		return usage(fmt.Errorf("output %q, allowed are text, json, topology", o.format))
	}
	if err == nil && len(r.Broken) > 0 {
		return fmt.Errorf("%d rules of the house were broken: a defect, please report it with topology and script", len(r.Broken))
	}
	return printError(err)
}

// simulatedFleet is the fleet of a file, or the live one.
func (e *env) simulatedFleet(cmd *cobra.Command, o simulateOptions) (fleet.Topology, error) {
	switch {
	case o.live == (o.topology != ""):
		return fleet.Topology{}, usage(errors.New("which fleet: allowed is one of --topology and --from-live"))
	case o.live:
		api, err := e.client()
		if err != nil {
			return fleet.Topology{}, err
		}
		top, notes, err := liveTopology(cmd.Context(), api)
		for _, n := range notes {
			if _, werr := fmt.Fprintln(e.Stderr, "note: "+n); werr != nil {
				return top, printError(werr)
			}
		}
		return top, err
	}
	b, err := os.ReadFile(o.topology)
	if err != nil {
		return fleet.Topology{}, usage(fmt.Errorf("read topology: %w", err))
	}
	top, err := fleet.ParseTopology(b)
	if err != nil {
		return fleet.Topology{}, usage(err)
	}
	return top, nil
}

// scriptText is the script of the file, after what --lose says.
func (o simulateOptions) scriptText() (string, error) {
	var lines []string
	for _, l := range o.lose {
		kind, name, _ := strings.Cut(l, "=")
		switch kind {
		case "rack", "switch", "uplink", "pdu", "pool", "net":
			lines = append(lines, fmt.Sprintf("0s lose %s %s", kind, name))
		case "host":
			lines = append(lines, "0s crash "+name)
		case "worker":
			lines = append(lines, "0s kill-box "+name)
		case "etcd":
			lines = append(lines, "0s etcd down")
		default:
			return "", usage(fmt.Errorf("--lose %q, allowed are rack, switch, uplink, pdu, pool, net, host, worker, etcd, such as rack=7", l))
		}
	}
	if o.script == "" {
		if len(lines) == 0 {
			return "", usage(errors.New("what happens: wanted is --script or --lose"))
		}
		return strings.Join(append(lines, o.lasts.String()+" end"), "\n"), nil
	}
	b, err := os.ReadFile(o.script)
	if err != nil {
		return "", usage(fmt.Errorf("read script: %w", err))
	}
	return strings.Join(append(lines, string(b)), "\n"), nil
}
