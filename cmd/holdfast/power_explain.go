// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newPowerExplainCmd is `power explain`: which device, which level, and why.
func newPowerExplainCmd(e *env) *cobra.Command {
	c := describeOne(e, "host", nil, e.completeHosts, func(cmd *cobra.Command, api *v1.Client, id string) (any, func(*text), error) {
		x, err := api.ExplainPower(cmd.Context(), id)
		return x, func(t *text) { e.powerExplanation(t, x) }, err
	})
	c.Use, c.Short = "explain HOST", "Say which power device would be used, at which level, and why"
	c.Long = "Shows the host's levels in the order in which they are tried: what each can prove, what its devices read, when and how deep they were tested.\nFor every field of a device it tells who said so: the host's declaration, a power profile or the driver. A level that would be passed over says why."
	c.Example = "  holdfast power explain h-17\n  holdfast power explain h-17 -o json\n  holdfast power explain h-17 -o jsonpath='{.levels}'"
	return c
}

func (e *env) powerExplanation(t *text, x v1.PowerExplanation) {
	t.printf("power of host %s is %s", x.Host, e.state(x.State))
	if !x.Since.IsZero() {
		t.printf(" since %s", t.at(x.Since))
	}
	t.printf("\n")
	if x.Cause != "" {
		t.field("Cause", x.Cause)
	}
	t.field("Why", x.Why)
	t.field("Wanted", "a proof of "+x.Least+" before instances run elsewhere")
	t.section("To prove it off:", x.Says)
	for _, lv := range x.Levels {
		head := fmt.Sprintf("Level %d, %s", lv.Level, lv.Mode)
		if lv.Mode != "human" {
			head += fmt.Sprintf(": reads %s, proves %s", e.state(lv.State), lv.Proves)
			if lv.Deadline != "" {
				head += ", has " + lv.Deadline
			}
		}
		t.printf("\n%s\n", head)
		if lv.Why != "" {
			t.printf("  %s\n", lv.Why)
		}
		for _, d := range lv.Devices {
			t.printf("  - %s\n", e.deviceLine(t, d))
			if d.Error != "" {
				t.printf("      last reading: %s (%d failed in a row)\n", d.Error, d.Fails)
			}
			if i := identityText(d.Identity); i != "" {
				t.printf("      pinned: %s\n", i)
			}
			width := 0
			for _, f := range d.Fields {
				width = max(width, len(f.Name)+len(f.Value)+1)
			}
			for _, f := range d.Fields {
				t.printf("      %-*s  from %s\n", width, f.Name+"="+f.Value, f.Origin)
			}
		}
	}
	var set []string
	for _, s := range x.Settings {
		if s.Origin != "default" {
			set = append(set, fmt.Sprintf("%s = %s from %s", s.Name, s.Value, s.Origin))
		}
	}
	t.section("Settings that are not the default:", set)
}

func (e *env) deviceLine(t *text, d v1.PowerDevice) string {
	parts := []string{d.Name + " (" + d.Driver}
	if d.Address != "" {
		parts[0] += " at " + d.Address
	}
	parts[0] += ")"
	if !d.Read.IsZero() {
		parts = append(parts, fmt.Sprintf("read %s %s", e.state(d.State), t.at(d.Read)))
	}
	if !d.Tested.IsZero() {
		test := "test " + testText(d.DeviceStatus)
		if d.Depth != nil && *d.Depth < len(v1.TestDepths) {
			test += fmt.Sprintf(" to depth %d (%s)", *d.Depth, v1.TestDepths[*d.Depth])
		}
		parts = append(parts, test)
	}
	if !d.Next.IsZero() {
		parts = append(parts, "next reading in "+max(0, d.Next.Sub(t.now)).Round(time.Second).String())
	}
	return strings.Join(parts, "; ")
}

func identityText(i v1.Identity) string {
	var out []string
	for _, f := range []struct{ name, value string }{{"system UUID", i.SystemUUID}, {"serial", i.Serial}, {"fingerprint", i.Fingerprint}} {
		if f.value != "" {
			out = append(out, f.name+" "+f.value)
		}
	}
	return strings.Join(out, ", ")
}

// powerEvents are the types of events that tell of a host's power beside those named power.…
var powerEvents = []string{"ha.order", "ha.order-refused", "ha.safe-to-restart", "ha.safe-to-restart-ended", "ha.proof-revoked", "budget.exhausted"}

// newPowerHistoryCmd is `power history`.
func newPowerHistoryCmd(e *env) *cobra.Command {
	var out outputFlags
	var since string
	c := &cobra.Command{
		Use: "history HOST", Short: "Show what happened to a host's power", Args: cobra.ExactArgs(1),
		Long:              "Lists changes of the power state with their cause, orders of operators, power tests that failed or pass again, pinned identities and proofs, oldest first. It goes as far back as the event log is kept.",
		Example:           "  holdfast power history h-17\n  holdfast power history h-17 --since 24h\n  holdfast power history h-17 -o json",
		ValidArgsFunction: e.completeHosts,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := out.options(e)
		if err != nil {
			return err
		}
		q := v1.EventQuery{Host: args[0]}
		if since != "" {
			back, err := time.ParseDuration(since)
			if err != nil || back <= 0 {
				return usage(fmt.Errorf("since: %q, allowed is a duration such as 24h", since))
			}
			q.Since = e.Now().Add(-back)
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		if _, err := api.Host(cmd.Context(), args[0]); err != nil {
			return err
		}
		all, err := api.Events(cmd.Context(), q)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(x v1.Event) bool {
			return !strings.HasPrefix(x.Type, "power.") && !slices.Contains(powerEvents, x.Type)
		})
		return printError(eventsTable.List(e.Stdout, e.Stderr, o, all))
	}
	out.register(c)
	c.Flags().StringVar(&since, "since", "", "only what happened in this time back from now, such as 24h")
	return c
}
