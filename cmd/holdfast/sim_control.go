// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/sim/metal"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// simSocket is where simulated devices take orders: an abstract socket that follows from
// the port of the BMCs.
func simSocket(port uint16) string { return fmt.Sprintf("@holdfast-sim-%d", port) }

// simSwitch is an order to switch hosts by hand.
type simSwitch struct {
	metal.Selection
	On bool `json:"on"`
}

type simCount struct {
	Hosts int `json:"hosts"`
}

// simOrders is what the verbs of `holdfast sim` ask of the process that runs the devices.
func simOrders(f *metal.Fleet) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, in func() any, do func(any) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			order := in()
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(order); err != nil {
				answer(w, nil, v1.Problemf(v1.CodeBadRequest, "order: %v", err))
				return
			}
			out, err := do(order)
			if errors.Is(err, metal.ErrBadRule) {
				err = v1.Problemf(v1.CodeBadRequest, "%v", err)
			}
			answer(w, out, err)
		})
	}
	handle("POST /faults", func() any { return &[]metal.Rule{} }, func(o any) (any, error) { return struct{}{}, f.Apply(*o.(*[]metal.Rule)) })
	handle("POST /status", func() any { return &metal.Selection{} }, func(o any) (any, error) { return f.Status(*o.(*metal.Selection)) })
	handle("POST /switch", func() any { return &simSwitch{} }, func(o any) (any, error) {
		s := o.(*simSwitch)
		n, err := f.Switch(s.Selection, s.On)
		return simCount{n}, err
	})
	mux.HandleFunc("GET /inventory", func(w http.ResponseWriter, _ *http.Request) { answer(w, f.Inventory(), nil) })
	return mux
}

// simAsk sends an order to the devices at a port.
func simAsk(ctx context.Context, e *env, port uint16, method, path string, order, out any) error {
	b, err := json.Marshal(order)
	if err != nil {
		return fmt.Errorf("encode order: %w", err)
	}
	c := newOrderClient(e, "simulated devices", simSocket(port))
	err = c.do(ctx, method, path, b, out)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return &hintError{&exitError{fmt.Errorf("no simulated BMCs run at port %d", port), exitNotFound}, fmt.Sprintf("start some in another terminal: holdfast sim bmc --port %d", port)}
	}
	return err
}

func simPortFlag(c *cobra.Command, port *uint16) {
	c.Flags().Uint16Var(port, "port", simPort, "port of the BMCs, which names the process")
}

func simSelectFlags(c *cobra.Command, s *metal.Selection) {
	c.Flags().StringVar(&s.Hosts, "hosts", "", "numbers and ranges, like 1-100,205 (default: all)")
	c.Flags().Float64Var(&s.Percent, "percent", 0, "share of them, chosen by the seed (default: all)")
}

func newSimSetCmd(e *env) *cobra.Command {
	var port uint16
	c := &cobra.Command{
		Use: "set RULES", Short: "Set faults while the devices run", Args: cobra.ExactArgs(1),
		Long: "Gives faults to devices, in place of those they have. RULES is a preset, a file, or JSON: a rule or a list of rules.\n" +
			"A rule has \"hosts\" (like 1-100,205; all if absent), \"percent\" (a share of them), and \"bmc\" and \"redfish\" with the faults; or \"pdus\" and \"pdu\". Empty faults heal.\n\n" +
			"bmc:      mute delay jitter lose_requests lose_answers duplicate_answers ignore_commands say_off say_on off_readings self_on_after reject_same_state busy busy_reads empty_body initialising no_slots orphan_opens lockout_after lockout_for wrong_integrity downgrade other_guid forged short bad_padding garbage replayed\n" +
			"redfish:  mute delay jitter lose_requests lose_answers ignore_commands say_state off_readings no_power_state reject_same_state task_fails unauthorized forbidden busy too_many in_use busy_reads no_slots lockout_after lockout_for wrong_json huge_body trickle redirect other_uuid other_certificate\n" +
			"pdu:      mute lose_answers ignore_commands say_off say_on",
		Example: `  holdfast sim set healthy
  holdfast sim set '{"percent": 1, "bmc": {"mute": true}}'
  holdfast sim set '[{"bmc": {"delay": "30ms"}}, {"hosts": "7", "bmc": {"say_off": true, "ignore_commands": true}}]'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			rules, err := simRules(args[0])
			if err != nil {
				return err
			}
			if len(rules) == 0 { // the preset without faults heals
				rules, _ = metal.ParseRules([]byte(`{"bmc": {}, "redfish": {}}`))
			}
			return simAsk(cmd.Context(), e, port, http.MethodPost, "/faults", rules, nil)
		},
	}
	simPortFlag(c, &port)
	return c
}

func newSimStatusCmd(e *env) *cobra.Command {
	var port uint16
	var s metal.Selection
	c := &cobra.Command{
		Use: "status", Short: "Show the truth of hosts and what is wrong with their BMCs", Args: cobra.NoArgs,
		Long:    "Prints each host as a line of JSON: true power, mains, status readings carried out, sessions in use, faults in force.\nDurations are in nanoseconds.",
		Example: "  holdfast sim status\n  holdfast sim status --hosts 1-10\n  holdfast sim status | jq -c 'select(.on == false)'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all []metal.Status
			if err := simAsk(cmd.Context(), e, port, http.MethodPost, "/status", s, &all); err != nil {
				return err
			}
			enc := json.NewEncoder(e.Stdout)
			for _, h := range all {
				if err := enc.Encode(h); err != nil {
					return fmt.Errorf("write status: %w", err)
				}
			}
			return nil
		},
	}
	simPortFlag(c, &port)
	simSelectFlags(c, &s)
	return c
}

func newSimPowerCmd(e *env) *cobra.Command {
	var port uint16
	var s simSwitch
	c := &cobra.Command{
		Use: "power on|off", Short: "Switch hosts by hand, past their BMCs", Args: cobra.ExactArgs(1),
		Long:    "Switches hosts as a technician at the rack does: no BMC is asked, and the truth log shows nothing.\nA host without mains stays off.",
		Example: "  holdfast sim power off --hosts 7\n  holdfast sim power off --hosts 1-24\n  holdfast sim power on --percent 10",
		RunE: func(cmd *cobra.Command, args []string) error {
			if s.On = args[0] == "on"; !s.On && args[0] != "off" {
				return usage(fmt.Errorf("power: %q, allowed are %s", args[0], strings.Join([]string{"on", "off"}, ", ")))
			}
			var n simCount
			if err := simAsk(cmd.Context(), e, port, http.MethodPost, "/switch", s, &n); err != nil {
				return err
			}
			_, err := fmt.Fprintf(e.Stdout, "%d hosts switched %s\n", n.Hosts, args[0])
			return err
		},
		ValidArgs: []string{"on", "off"},
	}
	simPortFlag(c, &port)
	simSelectFlags(c, &s.Selection)
	return c
}

func newSimInventoryCmd(e *env) *cobra.Command {
	var port uint16
	c := &cobra.Command{
		Use: "inventory", Short: "Print every device as a line of JSON", Args: cobra.NoArgs,
		Long:    "Prints how each device is reached: kind (ipmi, redfish, pdu), address, port, identity, and the outlets that feed a host.\nThe process that runs the devices is found by its port.",
		Example: "  holdfast sim inventory\n  holdfast sim inventory | jq -r 'select(.kind == \"ipmi\") | .address'\n  holdfast sim inventory --port 7000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var items []metal.Item
			if err := simAsk(cmd.Context(), e, port, http.MethodGet, "/inventory", struct{}{}, &items); err != nil {
				return err
			}
			return writeInventory(e.Stdout, items)
		},
	}
	simPortFlag(c, &port)
	return c
}
