// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newSupportCmd is `holdfast support`.
func newSupportCmd(e *env) *cobra.Command {
	var out string
	var goroutines bool
	c := &cobra.Command{
		Use: "support", Short: "Write a bundle for those who help", Args: cobra.NoArgs,
		Long: "Writes a tar.gz with what explains a fleet: versions, settings as they are effective, all records of etcd, incidents, events, and of every worker its options, health, claims, metrics and view of etcd.\n" +
			"Secrets, what is sealed, hashes, parameters of devices and arguments of hooks are left out by the workers, before anything is sent. Names and addresses of your machines are in it. What could not be read is in errors.txt, and the exit code is 5 then.",
		Example: "  holdfast support\n  holdfast support -o fleet.tar.gz --goroutines\n  holdfast support --context berlin -o berlin.tar.gz",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := e.client()
			if err != nil {
				return err
			}
			if out == "" {
				out = "holdfast-support-" + e.Now().UTC().Format("20060102T150405Z") + ".tar.gz"
			}
			return e.support(cmd.Context(), api, out, goroutines)
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "file to write (default holdfast-support-TIME.tar.gz)")
	c.Flags().BoolVar(&goroutines, "goroutines", false, "with a dump of the goroutines of every worker")
	return c
}

// bundle is a tar.gz that is being written.
type bundle struct {
	tar    *tar.Writer
	now    time.Time
	failed []string // what could not be read
	files  int
}

func (b *bundle) add(name string, content []byte) error {
	b.files++
	err := b.tar.WriteHeader(&tar.Header{Name: path.Join("holdfast-support", name), Mode: 0o600, Size: int64(len(content)), ModTime: b.now})
	if err == nil {
		_, err = b.tar.Write(content)
	}
	return err
}

// object adds what was read as JSON; what could not be read is noted, and the rest goes on.
func (b *bundle) object(name string, v any, err error) error {
	if err != nil {
		b.failed = append(b.failed, name+": "+err.Error())
		return nil
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return b.add(name, append(text, '\n'))
}

func (e *env) support(ctx context.Context, api *v1.Client, file string, goroutines bool) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return &exitError{fmt.Errorf("support: %w", err), exitConflict}
	} else if err != nil {
		return fmt.Errorf("support: %w", err)
	}
	whole := false
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if !whole {
			_ = os.Remove(file) // half of it helps nobody, and the error says why
		}
	}()
	z := gzip.NewWriter(f)
	b := &bundle{tar: tar.NewWriter(z), now: e.Now().UTC()}
	if err := b.fill(ctx, e, api, goroutines); err != nil {
		return fmt.Errorf("support: %w", err)
	}
	if err := errors.Join(b.tar.Close(), z.Close()); err != nil {
		return fmt.Errorf("support: write %s: %w", file, err)
	}
	whole = true
	fmt.Fprintf(e.Stdout, "%s: %d files\n", file, b.files)
	if len(b.failed) > 0 {
		return &exitError{fmt.Errorf("support: %d things could not be read, the bundle has the rest: %s", len(b.failed), b.failed[0]), exitUnhealthy}
	}
	return nil
}

func (b *bundle) fill(ctx context.Context, e *env, api *v1.Client, goroutines bool) error {
	answers, verr := api.Version(ctx)
	health, herr := api.Health(ctx)
	settings, serr := api.Settings(ctx, "global")
	hosts, oerr := api.Hosts(ctx, v1.HostQuery{})
	incidents, ierr := api.Incidents(ctx, "")
	events, eerr := api.Events(ctx, v1.EventQuery{})
	workers, werr := api.Workers(ctx)
	plan, perr := api.PlanFleet(ctx, nil, nil)
	err := errors.Join(
		b.object("version.json", map[string]any{"worker": answers, "tool": map[string]string{"version": version, "go": runtime.Version()}, "at": b.now}, verr),
		b.object("health.json", health, herr), b.object("settings.json", settings, serr), b.object("hosts.json", withoutParams(hosts), oerr),
		b.object("incidents.json", incidents, ierr), b.object("events.json", events, eerr), b.object("workers.json", workers, werr), b.object("plan.json", plan, perr),
	)
	var kinds []string
	for _, d := range leases.Schema {
		kind, _, _ := strings.Cut(d.Pattern, "/")
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range slices.Compact(kinds) {
		if err != nil {
			return err
		}
		records, rerr := api.Records(ctx, kind)
		err = b.object("records/"+kind+".json", records, rerr)
	}
	for _, w := range workers {
		if err != nil {
			return err
		}
		if w.Boot == "" {
			continue // drained, and not running
		}
		s, werr := api.Support(ctx, w.ID, goroutines)
		if werr == nil {
			err = errors.Join(b.add("workers/"+w.ID+"/metrics.txt", []byte(s.Metrics)))
			if goroutines {
				err = errors.Join(err, b.add("workers/"+w.ID+"/goroutines.txt", []byte(s.Goroutines)))
			}
			s.Metrics, s.Goroutines = "", ""
		}
		err = errors.Join(err, b.object("workers/"+w.ID+"/worker.json", s, werr))
	}
	if err == nil && len(b.failed) > 0 {
		err = b.add("errors.txt", []byte(strings.Join(b.failed, "\n")+"\n"))
	}
	return err
}

// withoutParams takes parameters of devices out: records do not show them either.
func withoutParams(hosts []v1.Host) []v1.Host {
	for i := range hosts {
		for k := range hosts[i].Spec.Power {
			for name := range hosts[i].Spec.Power[k].Params {
				hosts[i].Spec.Power[k].Params[name] = "(not shown)"
			}
		}
	}
	return hosts
}
