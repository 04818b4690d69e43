// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/world"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	demoHosts   = 8
	demoWorkers = 3
	demoVictim  = "h003"
	demoSettle  = 60 * time.Second // until all are AVAILABLE, and seen alive
	demoLimit   = 90 * time.Second // from the crash to AVAILABLE again
)

// newDemoCmd is `holdfast demo`: one host dies and comes back, told as it happens.
func newDemoCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "Watch one host die and come back, in about a minute", Args: cobra.NoArgs,
		Long: "Starts a small simulated fleet, crashes a host and tells what Holdfast sees, decides and does until the host is back.\n" +
			"Nothing is left behind. Exits with 1 and the reason if anything goes differently.",
		Example: `  # the story, then play yourself
  holdfast demo
  holdfast dev`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := devOptions{hosts: demoHosts, workers: demoWorkers, preset: "fast"}
			fmt.Fprintf(e.Stdout, "Starting %d hosts with a BMC each, %d workers and etcd on loopback …\n", o.hosts, o.workers)
			return runFleet(cmd.Context(), e, o, func(ctx context.Context, f *devFleet) error { return demo(ctx, e, f) })
		},
	}
}

// demo plays the story on a fleet that is ready. What must happen and does not is its
// error.
func demo(ctx context.Context, e *env, f *devFleet) error {
	fmt.Fprintf(e.Stdout, "Every agent is linked after %.1fs. Waiting until every host is AVAILABLE …\n", f.took.Seconds())
	if err := f.allAvailable(ctx); err != nil {
		return err
	}
	before, err := f.client.Host(ctx, demoVictim)
	if err != nil {
		return fmt.Errorf("look at %s: %w", demoVictim, err)
	}
	if err := f.world.Break(demoVictim, world.Crash, false); err != nil {
		return err
	}
	s := newStory(e.Stdout, demoVictim, time.Now())
	s.say("you", "crash %s: its processes are gone, its network is silent, its chassis is still ON", demoVictim)

	limited, cancel := context.WithTimeoutCause(ctx, demoLimit, fmt.Errorf("%s is not AVAILABLE after %v", demoVictim, demoLimit))
	defer cancel()
	after, err := s.follow(limited, f.client, func(h v1.Host) bool {
		return h.Status.State == "AVAILABLE" && h.Status.Boot != before.Status.Boot
	})
	if err != nil {
		return err
	}
	s.say("end", "%s is AVAILABLE again: boot %.8s is over, boot %.8s runs", demoVictim, before.Status.Boot, after.Status.Boot)
	return s.checkTruth(f.world.Truth())
}

// allAvailable waits until every host is, and has been seen alive by its neighbours.
func (f *devFleet) allAvailable(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, demoSettle, fmt.Errorf("not all hosts are AVAILABLE and seen alive after %v", demoSettle))
	defer cancel()
	return poll(ctx, func() (string, error) {
		all, err := f.client.Hosts(ctx, v1.HostQuery{})
		if err != nil {
			return fmt.Sprintf("list hosts: %v", err), nil
		}
		var not []string
		for _, h := range all {
			switch {
			case h.Status.State != "AVAILABLE":
				not = append(not, fmt.Sprintf("%s is %s (%s)", h.Spec.ID, h.Status.State, h.Status.Reason))
			case len(h.Status.Witnessed) == 0: // its silence would prove nothing
				not = append(not, fmt.Sprintf("%s was not seen alive by its neighbours", h.Spec.ID))
			}
		}
		if len(all) != f.opts.hosts {
			return fmt.Sprintf("%d of %d hosts are on record", len(all), f.opts.hosts), nil
		}
		return strings.Join(not, "; "), nil
	})
}

// checkTruth compares what the BMCs were really told with what the story may tell.
func (s *story) checkTruth(truth []bmc.Entry) error {
	var got []string
	for _, t := range truth {
		if t.Verb == bmc.VerbIdentify {
			continue // a power test blinks; nothing is switched
		}
		if t.BMC != s.host {
			return fmt.Errorf("power command %s was sent to %s, which was healthy", t.Verb, t.BMC)
		}
		got = append(got, string(t.Verb))
	}
	verbs := strings.Join(got, ", ")
	if !strings.HasPrefix(verbs, "off") || !strings.HasSuffix(verbs, "on") {
		return fmt.Errorf("the BMC of %s was told %q, expected off, then on", s.host, verbs)
	}
	s.say("truth", "the BMC of %s was told: %s. No power command reached any other host", s.host, verbs)
	if !s.released {
		return errors.New("its instances were never announced as safe to restart")
	}
	return nil
}
