// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/sim/sequence"
	"github.com/holdfast-ha/holdfast/tests/lab"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	// Rates keep commands under way until they are interrupted.
	copyRate    = 2 << 20 // bytes per second
	migrateRate = 8 << 20
	// outage is how long most interruptions last; etcdAway is "minutes".
	outage   = 6 * time.Second
	etcdAway = 2 * time.Minute
	// cellLimit is how long a command may take to be over once things are in order.
	cellLimit = 2 * time.Minute
)

// kinds are what commands do, and to what.
var kinds = []string{"copy", "move-stopped", "move-live", "migrate", "migrate-with"}

// interruption breaks something while the commands of all cells are in mid-transfer, and
// mends it.
type interruption struct {
	name, what string
	kinds      []string // none: all
	far        bool     // its pools at the target are shared, where faults are
	ends       bool     // guests end with it: a record may say that one ran until then
	do         func(f *fleet)
}

var interruptions = []interruption{
	{name: "link-cut", what: "the source's cable is cut, which migrations use too", do: func(f *fleet) {
		must(f.t, f.hosts[0].node.Cable(f.t.Context(), false))
		f.pass(3 * outage)
		must(f.t, f.hosts[0].node.Cable(f.t.Context(), true))
	}},
	{name: "agent-killed", what: "kill -9 of the agent", do: func(f *fleet) { f.signalAgent(unix.SIGKILL) }},
	{name: "agent-restarted", what: "SIGTERM of the agent", do: func(f *fleet) { f.signalAgent(unix.SIGTERM) }},
	{name: "host-power-cycled", what: "the source loses its power", ends: true, do: func(f *fleet) { f.powerCycle(f.hosts[0]) }},
	{name: "target-power-cycled", what: "the target loses its power", ends: true, kinds: []string{"migrate", "migrate-with"}, do: func(f *fleet) { f.powerCycle(f.hosts[1]) }},
	{name: "worker-killed", what: "kill -9 of the owner and the process above it", do: func(f *fleet) {
		owner := f.workers[f.owner()]
		f.kill(owner)
		f.pass(outage)
		f.startWorker(owner)
	}},
	{name: "all-workers-down", what: "kill -9 of all workers", do: func(f *fleet) {
		for _, w := range f.workers {
			f.kill(w)
		}
		f.pass(2 * outage)
		for _, w := range f.workers {
			f.startWorker(w)
		}
	}},
	{name: "etcd-away", what: "kill -9 of etcd, back after " + etcdAway.String(), do: func(f *fleet) {
		must(f.t, f.etcd.Signal(unix.SIGKILL))
		f.gone(f.etcd)
		f.pass(etcdAway)
		f.startEtcd()
	}},
	{name: "destination-full", what: "ENOSPC at the destination", far: true, kinds: []string{"copy", "move-stopped", "move-live", "migrate-with"}, do: breakPool(lab.Full, 0, 1)},
	{name: "destination-read-only", what: "EROFS at the destination", far: true, kinds: []string{"copy", "move-stopped", "move-live", "migrate-with"}, do: breakPool(lab.ReadOnly, 0, 1)},
	{name: "destination-gone", what: "ESTALE at the destination", far: true, kinds: []string{"copy", "move-stopped", "move-live", "migrate-with"}, do: breakPool(lab.Stale, 0, 1)},
	// The disk of a migration without volumes is on a pool of both hosts: only the target's
	// mount of it breaks.
	{name: "destination-full", kinds: []string{"migrate"}, do: breakPool(lab.Full, 1)},
	{name: "destination-read-only", kinds: []string{"migrate"}, do: breakPool(lab.ReadOnly, 1)},
	{name: "destination-gone", kinds: []string{"migrate"}, do: breakPool(lab.Stale, 1)},
}

// breakPool breaks it for longer than a mirror pauses to keep its rate: it writes 16 MiB at
// once before that.
func breakPool(fault lab.Fault, hosts ...int) func(*fleet) {
	return func(f *fleet) {
		for _, i := range hosts {
			must(f.t, f.hosts[i].node.SetFault(f.t.Context(), fault))
		}
		f.pass(2 * outage)
		for _, i := range hosts {
			must(f.t, f.hosts[i].node.SetFault(f.t.Context(), lab.NoFault))
		}
	}
}

// pass lets an outage last.
func (f *fleet) pass(d time.Duration) {
	select {
	case <-time.After(d):
	case <-f.t.Context().Done():
	}
}

func (f *fleet) signalAgent(sig unix.Signal) {
	must(f.t, f.hosts[0].node.Signal("holdfast-agent", sig))
}

func (f *fleet) powerCycle(h *node) {
	must(f.t, h.node.Off(f.t.Context()))
	f.pass(outage / 3)
	must(f.t, h.node.On(f.t.Context()))
}

// owner is the worker that owns the source.
func (f *fleet) owner() (id string) {
	wait(f.t, "the source has an owner", func() bool {
		h, err := f.api.Host(f.t.Context(), f.hosts[0].id)
		id = h.Status.Owner
		return err == nil && f.workers[id] != nil
	})
	return id
}

// cell is one command with what it is about, from the first host, to the second.
type cell struct {
	f          *fleet
	t          *testing.T
	kind, name string
	volumes    []string
	inst       string
	live       bool
	from       hypervisor.Disk
	req        v1.CommandRequest
	id         string
	seen       uint64 // the last record known to be written
	rec        command.Record
	took       time.Duration // from when things were in order again until it was over
	overInTime bool
	good       bool
	at         string // where its guest is to write on
}

func (f *fleet) newCell(t *testing.T, kind, name string, far bool) *cell {
	a, b := f.hosts[0].id, f.hosts[1].id
	c := &cell{f: f, t: t, kind: kind, name: name, volumes: []string{"v-" + name}, inst: "i-" + name, from: hypervisor.Disk{Pool: local(a), Path: "v-" + name + ".raw"}}
	switch kind {
	case "copy":
		c.inst = ""
		c.volumes = append(c.volumes, "n-"+name)
		c.req = v1.CommandRequest{Kind: "copy", Volume: "v-" + name, Pool: shared, As: "n-" + name, Host: a, Rate: copyRate}
	case "move-stopped", "move-live":
		c.live = kind == "move-live"
		c.req = v1.CommandRequest{Kind: "migrate-volume", Volume: "v-" + name, Pool: shared, Rate: copyRate}
	case "migrate":
		c.live, c.from.Pool = true, shared
		c.req = v1.CommandRequest{Kind: "migrate", Instance: c.inst, Host: b, Force: true, Rate: migrateRate}
	case "migrate-with":
		c.live = true
		c.req = v1.CommandRequest{Kind: "migrate", Instance: c.inst, Host: b, Pool: local(b), Force: true, Rate: migrateRate}
		if far {
			c.req.Pool = shared
		}
	}
	c.req.Key = "k-" + name
	return c
}

// make makes the volume and the guest, on disk and on record.
func (c *cell) make() {
	ctx, a := c.t.Context(), c.f.hosts[0]
	must(c.t, a.CreateVolume(ctx, hypervisor.CreateSpec{Disk: c.from, Format: hypervisor.Raw, Size: diskSize}))
	path, err := a.Path(c.from)
	must(c.t, err)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(c.t, err)
	_, err = file.WriteAt(bytes.Repeat([]byte("holdfast"), (diskSize-sequence.Size)/8), sequence.Size)
	must(c.t, errors.Join(err, file.Sync(), file.Close()))
	declare(c.f, v1.Volume{V: 1, ID: c.volumes[0], Place: v1.Place(c.from), Format: "raw", Size: diskSize})
	if c.inst == "" {
		return
	}
	must(c.t, a.Define(ctx, define(c.inst, hypervisor.DiskSpec{Disk: c.from, Format: hypervisor.Raw})))
	i := v1.Instance{V: 1, ID: c.inst, Host: a.id, MemoryMiB: theLab.Guest.Memory, CPUs: 1, Volumes: c.volumes, State: "stopped",
		Kernel: theLab.Guest.Kernel.Image, Initrd: theLab.Guest.Kernel.Initrd, Args: theLab.Guest.Kernel.Args}
	if c.live {
		must(c.t, a.Start(ctx, c.inst))
		i.State = "running"
	}
	declare(c.f, i)
}

func (c *cell) instance() (i v1.Instance) {
	wait(c.t, "record of "+c.inst, func() (ok bool) {
		var err error
		i, err = v1.GetResource[v1.Instance](c.t.Context(), c.f.api, c.inst)
		return err == nil
	})
	return i
}

// ask puts the command on record.
func (c *cell) ask() {
	c.t.Helper()
	var last error
	wait(c.t, c.name+" is on record", func() bool {
		cmd, err := c.f.api.NewCommand(c.t.Context(), c.req)
		if err != nil && (last == nil || err.Error() != last.Error()) {
			c.t.Logf("%s: %v", c.name, err)
		}
		last, c.id = err, cmd.ID
		return err == nil
	})
}

// moves says whether the command is in mid-transfer.
func (c *cell) moves() bool {
	cmd, err := c.f.api.Command(c.t.Context(), c.id)
	if err == nil && cmd.Outcome != nil {
		c.t.Fatalf("%s was over before it was interrupted: %s: %s", c.name, cmd.State, cmd.Outcome.Why)
	}
	return err == nil && cmd.Progress != nil && cmd.Progress.Done > 0
}

// over says whether the command has ended and both sides have forgotten its journal.
func (c *cell) over() bool {
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	kv, err := c.f.client.Get(ctx, leases.CommandKey(c.f.hosts[0].id, c.id))
	var rec command.Record
	if err != nil || json.Unmarshal(kv.Value, &rec) != nil {
		c.f.client.Examine(ctx) // dials an etcd that was away at once; then it is looked at again
		return false
	}
	c.rec = rec
	return rec.Released && rec.Acked
}

// TestInterrupted is the matrix of the issue on libvirt and QEMU, with real agents, workers
// and etcd: each kind of command is interrupted in mid-transfer by each interruption. All
// kinds meet it at the same time. Before that, in a fleet that has seen no storm yet, hosts are
// lost and automation fences them.
func TestInterrupted(t *testing.T) {
	f := newFleet(t)
	for _, what := range losses {
		t.Run(what.name, func(t *testing.T) { f.fenced(t, what) })
	}
	table := map[string]map[string]string{}
	for n, what := range interruptions {
		if table[what.name] == nil {
			table[what.name] = map[string]string{}
		}
		t.Run(what.name, func(t *testing.T) { f.interrupt(t, n, what, table[what.name]) })
		if *page != "" {
			must(t, writeTable(*page, table))
		}
	}
}

func (f *fleet) interrupt(t *testing.T, n int, what interruption, results map[string]string) {
	whole := f.t
	f.t = t
	defer func() { f.t = whole }()
	if what.kinds == nil {
		what.kinds = kinds
	}
	began := time.Now()
	var cells []*cell
	t.Cleanup(func() {
		if t.Failed() {
			f.tell()
		}
		f.t = t
		f.clear(cells)
		f.t = whole
	})
	f.linked()
	for _, kind := range what.kinds {
		cells = append(cells, f.newCell(t, kind, fmt.Sprintf("%s-%d", kind, n), what.far))
	}
	f.prepare(cells)
	ready := time.Since(began)
	f.run(cells)
	what.do(f)
	f.await(cells)
	strays := f.strays(cells)
	for _, c := range cells {
		t.Run(c.kind, func(t *testing.T) {
			c.t = t
			if !c.overInTime {
				text, _ := json.MarshalIndent(c.rec, "", " ")
				t.Fatalf("%s is not over %v after all was in order again: %s", c.name, cellLimit, text)
			}
			t.Logf("%s, done %v, %v: %s", c.rec.State, c.rec.Outcome.Done, c.took.Round(100*time.Millisecond), c.rec.Outcome.Why)
			for _, s := range strays[c] {
				t.Errorf("stray file %s", s)
			}
			c.check(what.ends)
			c.start()
			c.good = !t.Failed()
		})
	}
	for _, c := range cells {
		good := c.inst == "" || t.Run(c.kind+"-goes-on", func(t *testing.T) {
			c.t = t
			c.goesOn()
		})
		results[c.kind] = "**wrong**"
		if good && c.good {
			results[c.kind] = fmt.Sprintf("%s, %.1f s", map[bool]string{true: "done", false: "not done"}[c.rec.Outcome.Done], c.took.Seconds())
		}
	}
	for _, s := range strays[nil] {
		t.Errorf("stray file %s", s)
	}
	t.Logf("%s: ready after %v, all %v", what.name, ready.Round(time.Second), time.Since(began).Round(time.Second))
}

// prepare makes volumes and guests and waits until those that run write and are reported.
func (f *fleet) prepare(cells []*cell) {
	for _, c := range cells {
		c.make()
	}
	wait(f.t, "guests write", func() bool {
		for _, c := range cells {
			if c.live && f.sequence(c.from) < 10 {
				return false
			}
		}
		return true
	})
	for _, c := range cells {
		if c.live {
			wait(f.t, "the agent reports "+c.inst, func() bool {
				h, err := f.api.Host(f.t.Context(), f.hosts[0].id)
				return err == nil && slices.Contains(h.Status.Instances, c.inst)
			})
		}
	}
}

// run brings all commands into mid-transfer: migrations first, which take longest to get
// there.
func (f *fleet) run(cells []*cell) {
	moving := func(some []*cell) {
		for _, c := range some {
			c.ask()
		}
		wait(f.t, "commands are in mid-transfer", func() bool { return !slices.ContainsFunc(some, func(c *cell) bool { return !c.moves() }) })
	}
	migrates := func(c *cell) bool { return c.req.Kind == "migrate" }
	moving(slices.DeleteFunc(slices.Clone(cells), func(c *cell) bool { return !migrates(c) }))
	moving(slices.DeleteFunc(slices.Clone(cells), migrates))
	for _, c := range cells {
		if c.live {
			c.seen = f.sequence(c.from)
		}
	}
}

// await waits until all commands are over, and notes when each was.
func (f *fleet) await(cells []*cell) {
	began := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for open := slices.Clone(cells); len(open) > 0 && time.Since(began) < cellLimit; <-tick.C {
		open = slices.DeleteFunc(open, func(c *cell) bool {
			c.overInTime = c.over()
			c.took = time.Since(began)
			return c.overInTime
		})
	}
}

// clear brings the fleet into order and removes what the cells made.
func (f *fleet) clear(cells []*cell) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*limit)
	defer cancel()
	for _, h := range f.hosts {
		must(f.t, errors.Join(h.node.SetFault(ctx, lab.NoFault), h.node.Cable(ctx, true), h.node.On(ctx)))
		wait(f.t, h.id+" answers", func() bool { return h.Healthy(ctx) == nil })
		for _, c := range cells {
			if c.inst != "" {
				if err := errors.Join(h.AbortMigration(ctx, c.inst), h.Stop(ctx, c.inst, true), h.Undefine(ctx, c.inst)); err != nil {
					f.t.Errorf("clear %s: %v", h.id, err)
				}
			}
		}
	}
	for _, c := range cells {
		if c.inst != "" {
			f.forget("instance "+c.inst, func() error { return v1.DeleteResource[v1.Instance](ctx, f.api, c.inst, -1) })
		}
		for _, id := range c.volumes {
			f.forget("volume "+id, func() error { return v1.DeleteResource[v1.Volume](ctx, f.api, id, -1) })
		}
		for _, pattern := range []string{"export/*", "export/.*", "hosts/*/local/*", "hosts/*/local/.*"} {
			files, err := filepath.Glob(filepath.Join(lab.Dir, pattern+c.name+"*"))
			must(f.t, err)
			for _, file := range files {
				must(f.t, os.Remove(file))
			}
		}
	}
}

// forget deletes a record, as soon as agents report what it needs for that.
func (f *fleet) forget(what string, do func() error) {
	wait(f.t, what+" is forgotten", func() bool {
		err := do()
		p := (*v1.Problem)(nil)
		return err == nil || errors.As(err, &p) && p.Status == 404
	})
}
