// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/sim/world"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/sealed"
)

const (
	selfExe    = "/proc/self/exe" // the binary that runs, even if its file was replaced
	maxWorkers = 20
	bmcUser    = "HOLDFAST_BMC_USER" // names a worker's own account in its environment
	bootDelay  = 1500 * time.Millisecond

	readyWait = time.Minute
	pollEvery = 25 * time.Millisecond
)

// devPreset is what a preset means to a dev fleet besides the settings it names.
type devPreset struct{ leaseTTL int } // seconds

var devPresets = map[string]devPreset{"default": {leaseTTL: 5}, "fast": {leaseTTL: 3}}

// devOptions say which fleet to start.
type devOptions struct {
	hosts, workers  int
	dataDir, preset string
	context         bool // write the context `dev`
	faces           bool // Redfish services and PDUs, too
}

func (o devOptions) check() error {
	if o.hosts < 1 || o.hosts > world.MaxHosts {
		return usage(fmt.Errorf("hosts: %d, allowed are 1 to %d", o.hosts, world.MaxHosts))
	}
	if o.workers < 1 || o.workers > maxWorkers {
		return usage(fmt.Errorf("workers: %d, allowed are 1 to %d", o.workers, maxWorkers))
	}
	if _, ok := devPresets[o.preset]; !ok {
		return usage(fmt.Errorf("preset: %q, allowed are %s", o.preset, strings.Join(slices.Sorted(maps.Keys(devPresets)), ", ")))
	}
	return nil
}

// devFleet is a fleet that runs: embedded etcd and the simulated world in this process,
// workers, agents and guests as its children.
type devFleet struct {
	opts    devOptions
	preset  devPreset
	dir     *devDir
	block   world.Block
	places  []world.Place
	spawner *world.Spawner
	etcdURL string
	world   *world.World
	workers *devWorkers
	client  *v1.Client
	warn    func(string)
	took    time.Duration // until ready
	noPDUs  string        // why no PDU is declared
}

// stops is the way down: what was started last ends first.
type stops struct {
	names []string
	all   []func() error
}

func (s *stops) add(name string, stop func() error) {
	s.names, s.all = append(s.names, name), append(s.all, stop)
}

func (s *stops) run() error {
	var errs []error
	for i := len(s.all) - 1; i >= 0; i-- {
		if err := s.all[i](); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.names[i], err))
		}
	}
	return errors.Join(errs...)
}

// runFleet starts a fleet, waits until it is ready, lets use work with it, and ends
// everything, whatever happened, before it returns. The end of ctx is no error.
func runFleet(ctx context.Context, e *env, o devOptions, use func(context.Context, *devFleet) error) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	began := time.Now()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var down stops
	defer func() { err = errors.Join(err, down.run()) }()

	f := &devFleet{opts: o, preset: devPresets[o.preset], warn: func(text string) { fmt.Fprintln(e.Stderr, "warning:", text) }}
	if f.dir, err = openDevDir(o.dataDir); err != nil {
		return err
	}
	down.add("data dir", f.dir.close)
	if f.block, err = world.TakeBlock(); err != nil {
		return err
	}
	down.add("loopback block", f.block.Close)
	if f.places, err = world.Plan(o.hosts, f.block); err != nil {
		return err
	}
	f.spawner = world.NewSpawner()
	down.add("children", inBackground(f.spawner.Run, fail))

	etcd, err := startEtcd(ctx, f.dir.join("etcd"), f.dir.temp)
	if err != nil {
		return err
	}
	down.add("etcd", func() error { etcd.Close(); return nil })
	f.etcdURL = "http://" + etcd.Clients[0].Addr().String()

	secret, err := f.writeSecret()
	if err != nil {
		return err
	}
	f.workers = newDevWorkers(f, o.workers)
	down.add("workers", f.workers.stopAll)
	if err := f.workers.startAll(); err != nil {
		return err
	}
	f.world, err = world.New(world.Config{
		Dir: f.dir.path, Places: f.places, Workers: f.workers.agents(), Exec: selfExe, Spawner: f.spawner,
		Users: f.workers.ids(), Password: secret, BootDelay: bootDelay, Warn: f.warn, Faces: o.faces,
	})
	if err != nil {
		return err
	}
	f.client, err = v1.NewClient(v1.Options{Endpoints: f.workers.endpoints(), Actor: "holdfast dev", Timeout: 5 * time.Second})
	if err != nil {
		return err
	}
	if err := f.declare(ctx); err != nil {
		return whyEnded(ctx, err)
	}
	// Hosts are switched on once they are on record: unknown ones are told to come back later.
	down.add("simulated hosts", inBackground(f.world.Run, fail))
	if err := f.awaitLinks(ctx); err != nil {
		return whyEnded(ctx, err)
	}
	f.took = time.Since(began)
	if o.context {
		restore, err := writeDevContext(e, f.workers.endpoints())
		if err != nil {
			return err
		}
		down.add("context", restore)
	}
	return whyEnded(ctx, use(ctx, f))
}

// inBackground runs a part of the fleet and returns what ends it and waits for it. A
// part that fails ends the fleet.
func inBackground(run func(context.Context) error, fail context.CancelCauseFunc) (stop func() error) {
	// Not under the fleet's context: parts end in order, not together.
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := run(ctx)
		if err != nil {
			fail(err)
		}
		done <- err
	}()
	return func() error {
		cancel()
		return <-done
	}
}

// whyEnded puts the reason in place of an error that only says that the context ended.
// A part's own error is returned by its stop.
func whyEnded(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// declare waits for the workers and registers the fleet with them.
func (f *devFleet) declare(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWait, fmt.Errorf("not ready after %v", readyWait))
	defer cancel()
	if err := poll(ctx, func() (string, error) {
		all, err := f.client.Workers(ctx)
		if err != nil || len(all) < f.opts.workers {
			return fmt.Sprintf("%d of %d workers are members (logs: %s)", len(all), f.opts.workers, f.dir.join("w*.log")), nil
		}
		return "", nil
	}); err != nil {
		return err
	}
	return f.register(ctx)
}

// awaitLinks waits until every agent is linked.
func (f *devFleet) awaitLinks(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWait, fmt.Errorf("not ready after %v", readyWait))
	defer cancel()
	each, err := f.eachWorker()
	if err != nil {
		return err
	}
	return poll(ctx, func() (string, error) {
		missing := map[string]bool{}
		for _, p := range f.places {
			missing[p.Host] = true
		}
		for _, c := range each { // only its owner knows for sure that a host is linked
			all, err := c.Hosts(ctx, v1.HostQuery{})
			if err != nil {
				return fmt.Sprintf("list hosts: %v", err), nil
			}
			for _, h := range all {
				if h.Status.Linked == v1.LinkedYes {
					delete(missing, h.Spec.ID)
				}
			}
		}
		if len(missing) == 0 {
			return "", nil
		}
		return fmt.Sprintf("agents are not linked: %s (logs: %s)", strings.Join(slices.Sorted(maps.Keys(missing)), ", "), f.dir.join("hosts")), nil
	})
}

func (f *devFleet) eachWorker() ([]*v1.Client, error) {
	var out []*v1.Client
	for _, e := range f.workers.endpoints() {
		c, err := v1.NewClient(v1.Options{Endpoints: []string{e}, Actor: "holdfast dev", Timeout: 5 * time.Second})
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// poll asks until nothing is missing. At the end of ctx it says what was.
func poll(ctx context.Context, missing func() (string, error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		what, err := missing()
		if err != nil || what == "" {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), what)
		}
	}
}

// register declares the fleet through the operators' API, as an operator would.
func (f *devFleet) register(ctx context.Context) error {
	if _, err := f.client.PutSetting(ctx, "global", "preset", v1.SettingRequest{Value: f.opts.preset, Reason: "holdfast dev --preset"}, false); err != nil {
		return fmt.Errorf("set preset: %w", err)
	}
	declared := map[string]bool{}
	for _, p := range f.places {
		for _, path := range []string{p.Zone, p.Zone + "/" + p.Pod, p.Partition()} {
			if declared[path] {
				continue
			}
			declared[path] = true
			if _, err := f.client.PutPartition(ctx, v1.PartitionSpec{V: 1, Path: path}, -1); err != nil {
				return fmt.Errorf("register partition %s: %w", path, err)
			}
		}
		if _, err := f.client.PutHost(ctx, v1.HostSpec{
			V: 1, ID: p.Host, Partition: p.Partition(), Provider: "kvm",
			Labels: map[string]string{"rack": p.Rack}, Probes: []string{p.Probe()}, Pools: []string{p.Pool},
			Power: f.devices(p),
		}, -1, false); err != nil {
			return fmt.Errorf("register host %s: %w", p.Host, err)
		}
	}
	return nil
}

func (f *devFleet) secretFile() string { return f.dir.join("secrets", "bmc") }

// writeSecret makes a password for the BMCs of this run, for workers to read.
func (f *devFleet) writeSecret() (string, error) {
	secret := rand.Text()[:16]
	if err := os.MkdirAll(f.dir.join("secrets"), 0o700); err != nil {
		return "", fmt.Errorf("write BMC secret: %w", err)
	}
	if err := os.WriteFile(f.secretFile(), []byte(secret+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write BMC secret: %w", err)
	}
	if _, err := sealed.AddKey(f.dir.join("secrets", "ring"), "dev", true, time.Now()); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make key ring: %w", err)
	}
	return secret, nil
}

// zones are those of the fleet, each once.
func (f *devFleet) zones() []string {
	return slices.Compact(mapped(f.places, func(p world.Place) string { return p.Zone }))
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }
