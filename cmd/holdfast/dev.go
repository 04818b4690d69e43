// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/sim/world"
)

// newDevCmd is `holdfast dev`: a fleet on this machine, and the verbs that break it.
func newDevCmd(e *env) *cobra.Command {
	o := devOptions{context: true, faces: true}
	c := group("dev", "Run a simulated fleet on this machine",
		"Starts etcd, workers, agents and one simulated BMC per host, all on loopback, and keeps them running until Ctrl-C.\n"+
			"In clusters of four the third host speaks Redfish, and the fourth of every other one hangs on two PDUs, which workers reach with "+pduAgent+" where that is installed.\n"+
			"Workers and agents are real processes, power goes over real RMCP+; hosts can be broken and repaired from another terminal, or at the prompt.",
		`  # a fleet of 12 hosts and 3 workers
  holdfast dev

  # in another terminal: crash a host and watch what happens
  holdfast dev break h003 --how crash
  holdfast events -w

  # a pool hangs for a whole cluster
  holdfast dev break h001 --how storage-lost --cluster
  holdfast dev repair h001

  # kill a worker for real
  holdfast dev kill-worker w1`,
		devBreakCmd(e), devRepairCmd(e), devKillCmd(e),
		devWorkerCmd(e, "stop-worker", "Stop a worker in order (SIGTERM); it leaves its slots to itself as it is started next"),
		devWorkerCmd(e, "restart-worker", "Replace a worker's process in place (SIGHUP)"),
		devPauseCmd(e), devStartCmd(e),
		devStatusCmd(e), devTruthCmd(e))
	c.RunE = func(cmd *cobra.Command, _ []string) error { return dev(cmd.Context(), e, o) }
	f := c.Flags()
	f.IntVar(&o.hosts, "hosts", 12, fmt.Sprintf("simulated hosts, 1 to %d", world.MaxHosts))
	f.IntVar(&o.workers, "workers", 3, fmt.Sprintf("workers, 1 to %d", maxWorkers))
	f.StringVar(&o.dataDir, "data-dir", "", "directory to keep everything in (default: a temporary one, removed at the end)")
	f.StringVar(&o.preset, "preset", "default", "timing: default or fast")
	return c
}

// dev runs a fleet until it is interrupted.
func dev(ctx context.Context, e *env, o devOptions) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP) // the terminal is gone
	defer stop()
	if err := checkDevContext(e); err != nil {
		return err
	}
	err := runFleet(ctx, e, o, func(ctx context.Context, f *devFleet) error {
		work, ctx := errgroup.WithContext(ctx)
		work.Go(func() error { return f.control(ctx) })
		fmt.Fprintf(e.Stdout, "ready after %.1fs: %d hosts, %d workers, preset %s\n", f.took.Seconds(), o.hosts, o.workers, o.preset)
		for _, url := range f.workers.endpoints() {
			fmt.Fprintf(e.Stdout, "  API   %s\n", url)
		}
		fmt.Fprintf(e.Stdout, "  etcd  %s\n", f.etcdURL)
		fmt.Fprintf(e.Stdout, "  data  %s\n", f.dir.path)
		if f.noPDUs != "" {
			fmt.Fprintf(e.Stdout, "  note  %s\n", f.noPDUs)
		}
		if in, ok := e.Stdin.(*os.File); ok && e.IsTTY(in) {
			work.Go(func() error { return f.prompt(ctx, in, e.Stdout) })
		} else {
			fmt.Fprintln(e.Stdout, "Ctrl-C ends it; in another terminal: holdfast get hosts, holdfast dev break h003 --how crash, holdfast events -w")
		}
		err := work.Wait()
		if errors.Is(err, errQuit) {
			return nil
		}
		return err
	})
	if errors.Is(err, context.Canceled) {
		return nil // Ctrl-C is the way to end it
	}
	return err
}

func devBreakCmd(e *env) *cobra.Command {
	o := devOrder{Verb: "break"}
	var how string
	hows, texts := world.Hows()
	var table strings.Builder
	for i, h := range hows {
		fmt.Fprintf(&table, "\n  %-13s %s", h, texts[i])
	}
	c := &cobra.Command{
		Use: "break HOST --how HOW", Short: "Break a simulated host", Args: cobra.ExactArgs(1),
		Long: "Breaks a host of the dev fleet. The ways:\n" + table.String(),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.How = args[0], world.How(how)
			return devDo(cmd.Context(), e, o)
		},
	}
	c.Flags().StringVar(&how, "how", "", "way to break it, see above")
	c.Flags().BoolVar(&o.Cluster, "cluster", false, "for all hosts of its cluster (storage-lost only)")
	names := mapped(hows, func(h world.How) string { return string(h) })
	_ = c.RegisterFlagCompletionFunc("how", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return c
}

func devRepairCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "repair HOST", Short: "Undo every break of a simulated host", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return devDo(cmd.Context(), e, devOrder{Verb: "repair", Name: args[0]})
		},
	}
}

func devWorkerCmd(e *env, verb, short string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " WORKER", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return devDo(cmd.Context(), e, devOrder{Verb: verb, Name: args[0]})
		},
	}
}

func devKillCmd(e *env) *cobra.Command {
	o := devOrder{Verb: "kill-worker"}
	c := devWorkerCmd(e, o.Verb, "Kill a worker (SIGKILL)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o.Name = args[0]
		return devDo(cmd.Context(), e, o)
	}
	c.Flags().BoolVar(&o.Parent, "parent", false, "its parent too: nobody knows that it is dead, its lease has to run out")
	return c
}

func devStartCmd(e *env) *cobra.Command {
	o := devOrder{Verb: "start-worker"}
	c := devWorkerCmd(e, o.Verb, "Start a worker that has ended, wake one that is paused")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o.Name = args[0]
		if o.Binary != "" {
			var err error
			if o.Binary, err = filepath.Abs(o.Binary); err != nil {
				return usage(fmt.Errorf("binary: %w", err))
			}
		}
		return devDo(cmd.Context(), e, o)
	}
	c.Flags().StringVar(&o.Binary, "binary", "", "holdfast of another version to start it from: an upgrade, worker by worker (default: the one that runs the fleet)")
	return c
}

func devPauseCmd(e *env) *cobra.Command {
	o := devOrder{Verb: "pause-worker"}
	c := devWorkerCmd(e, o.Verb, "Stop a worker for a while (SIGSTOP, then SIGCONT)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o.Name = args[0]
		return devDo(cmd.Context(), e, o)
	}
	c.Flags().DurationVar(&o.For, "for", 10*time.Second, "how long")
	return c
}

func devDo(ctx context.Context, e *env, o devOrder) error {
	c, err := newDevClient(e)
	if err != nil {
		return err
	}
	if err := c.order(ctx, o); err != nil {
		return err
	}
	fmt.Fprintln(e.Stderr, strings.TrimSpace(fmt.Sprintf("%s %s: done %s", o.Verb, o.Name, o.How)))
	return nil
}

func devStatusCmd(e *env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "Show how the simulated hosts and workers really are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newDevClient(e)
			if err != nil {
				return err
			}
			s, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(e, s)
			}
			return s.print(e)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func devTruthCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "truth", Short: "Show every command the simulated BMCs and PDUs ever got, as JSON", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newDevClient(e)
			if err != nil {
				return err
			}
			t, err := c.truth(cmd.Context())
			if err != nil {
				return err
			}
			return writeJSON(e, t)
		},
	}
}

func writeJSON(e *env, v any) error {
	enc := json.NewEncoder(e.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (s devStatus) print(e *env) error {
	t := tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "HOST\tPARTITION\tPOWER\tSYSTEM\tBOOT\tBROKEN")
	for _, h := range s.Hosts {
		power := "off"
		if h.Power {
			power = "on"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.8s\t%s\n", h.Host, h.Partition, power, h.System, h.Boot, strings.Join(h.Broken, ", "))
	}
	fmt.Fprintln(t, "\nWORKER\tSTATE\tPID\tAPI")
	for _, w := range s.Workers {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", w.ID, w.State, w.PID, w.API)
	}
	return t.Flush()
}
