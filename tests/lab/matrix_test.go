// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

var page = flag.String("page", "", "write the table of TestInterrupted into this file, between its marks")

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

// sequence is the last record that a guest has written to a disk that the first host sees.
func (f *fleet) sequence(d hypervisor.Disk) uint64 {
	path, err := f.hosts[0].Path(d)
	must(f.t, err)
	return read(f.t, path).Last.N
}

// file is where a place lies on this machine.
func (f *fleet) file(p v1.Place) string {
	if p.Pool == shared {
		return filepath.Join(lab.Dir, "export", p.Path)
	}
	for _, h := range f.hosts {
		if p.Pool == local(h.id) {
			path, err := h.Path(hypervisor.Disk(p))
			must(f.t, err)
			return path
		}
	}
	f.t.Fatalf("pool %s is none of the lab's", p.Pool)
	return ""
}

// strays walks all pools and finds files that no record names, by the cell that they were
// made for.
func (f *fleet) strays(cells []*cell) map[*cell][]string {
	out := map[*cell][]string{}
	known := map[string]bool{}
	all, err := v1.Resources[v1.Volume](f.t.Context(), f.api)
	must(f.t, err)
	for _, v := range all {
		known[f.file(v.Place)] = true
	}
	roots := []string{filepath.Join(lab.Dir, "export")}
	for _, h := range f.hosts {
		roots = append(roots, filepath.Dir(f.file(v1.Place{Pool: local(h.id), Path: "x"})))
	}
	for _, root := range roots {
		must(f.t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == ".holdfast": // stamps
				return filepath.SkipDir
			case d.IsDir() || known[path]:
				return nil
			}
			i := slices.IndexFunc(cells, func(c *cell) bool { return strings.Contains(d.Name(), c.name) })
			var of *cell
			if i >= 0 {
				of = cells[i]
			}
			out[of] = append(out[of], path)
			return nil
		}))
	}
	return out
}

// check is what the issue asks for after each interruption: "the volume's record says the
// truth, the instance runs exactly once, its sequence numbers have no hole, no stray files,
// the journal is empty on both sides".
func (c *cell) check(ends bool) {
	ctx, f, t := c.t.Context(), c.f, c.t
	if kvs, _, err := f.client.List(ctx, leases.JournalPrefix+c.rec.Host+"/"+c.id+"/"); err != nil || len(kvs) > 0 {
		t.Errorf("%d steps of the journal are left in etcd (%v)", len(kvs), err)
	}
	for _, h := range f.hosts {
		for _, pattern := range []string{"*" + c.id + "*", "aside/*"} {
			if files, err := filepath.Glob(filepath.Join(agentDir(h.node), "journal", pattern)); err != nil || len(files) > 0 {
				t.Errorf("journal of %s: %v (%v)", h.id, files, err)
			}
		}
	}
	var places []v1.Place
	for _, id := range c.volumes {
		v, err := v1.GetResource[v1.Volume](ctx, f.api, id)
		if err != nil {
			if p := (*v1.Problem)(nil); errors.As(err, &p) && p.Status == 404 && id != c.volumes[0] && !c.rec.Outcome.Done {
				continue // a copy that was not made
			}
			t.Errorf("record of volume %s: %v", id, err)
			continue
		}
		places = append(places, v.Place)
		if v.State != "ready" || v.Command != "" {
			t.Errorf("volume %s is %s, command %q", id, v.State, v.Command)
		}
		info, err := os.Stat(f.file(v.Place))
		if err != nil || info.Size() != diskSize {
			t.Errorf("volume %s is on record at %s: %v", id, v.Place, err)
			continue
		}
		if last := check(t, f.file(v.Place)); last < c.seen {
			t.Errorf("volume %s at %s ends with record %d, %d was written before", id, v.Place, last, c.seen)
		}
		c.content(v)
	}
	if c.inst != "" {
		c.once(places, ends)
	}
}

// content: what the volume had beside the guest's ring is there.
func (c *cell) content(v v1.Volume) {
	text, err := os.ReadFile(c.f.file(v.Place))
	if err != nil || !bytes.Equal(text[sequence.Size:], bytes.Repeat([]byte("holdfast"), (diskSize-sequence.Size)/8)) {
		c.t.Errorf("volume %s at %s has not the content that it had (%v)", v.ID, v.Place, err)
	}
}

// once: the instance is where its record says, with the disks on record, and nowhere else.
func (c *cell) once(places []v1.Place, ends bool) {
	i := c.instance()
	if i.Command != "" {
		c.t.Errorf("instance %s still has command %s", i.ID, i.Command)
	}
	var running []string
	for _, h := range c.f.hosts {
		s := h.LookInstance(c.t.Context(), i.ID)
		switch here := h.id == i.Host; {
		case s.Answer == hypervisor.CouldNotLook:
			c.t.Errorf("look at %s on %s: %s", i.ID, h.id, s.Reason)
		case here != (s.Answer == hypervisor.Present):
			c.t.Errorf("instance %s is on record on %s; on %s it is %v %s", i.ID, i.Host, h.id, s.Answer, s.State)
		case here:
			var disks []v1.Place
			for _, d := range s.Disks {
				disks = append(disks, v1.Place(d))
			}
			if !slices.Equal(disks, places) {
				c.t.Errorf("instance %s uses %v, on record are %v", i.ID, disks, places)
			}
		}
		if s.Answer == hypervisor.Present && s.State != hypervisor.Stopped {
			running = append(running, h.id+" "+string(s.State)+" "+s.Detail)
		}
		if s.State == hypervisor.Paused && s.Detail != "I/O error" {
			c.t.Errorf("instance %s is paused on %s: %s", i.ID, h.id, s.Detail)
		}
	}
	if len(running) > 1 || (i.State == "running") != (len(running) == 1) && !ends {
		c.t.Errorf("instance %s is %s on record, it runs on %v", i.ID, i.State, running)
	}
}

// start has the guest run where its record says: one that stopped with its host, or at a
// disk that failed, is started there.
func (c *cell) start() {
	if c.inst == "" || c.t.Failed() {
		return
	}
	h := c.host()
	if s := h.LookInstance(c.t.Context(), c.inst); s.State == hypervisor.Paused {
		must(c.t, h.Stop(c.t.Context(), c.inst, true))
	}
	must(c.t, h.Start(c.t.Context(), c.inst))
	v, err := v1.GetResource[v1.Volume](c.t.Context(), c.f.api, c.volumes[0])
	must(c.t, err)
	c.at = c.f.file(v.Place)
	c.seen = check(c.t, c.at)
}

// hangLimit is after how long a guest that runs and does not write is taken to hang, as
// emulated ones do after a migration now and then (docs/lab.md).
const hangLimit = 45 * time.Second

// goesOn: the guest that was started writes on, without a hole; one that hangs since its
// migration does so when it was started anew.
func (c *cell) goesOn() {
	if c.at == "" {
		c.t.Fatal("it was not started")
	}
	began, restarted := time.Now(), c.req.Kind != "migrate"
	wait(c.t, "the guest writes to "+c.at, func() bool {
		if !restarted && time.Since(began) > hangLimit {
			restarted = true
			h := c.host()
			c.t.Logf("%s hangs on %s: started anew", c.inst, h.id)
			must(c.t, errors.Join(h.Stop(c.t.Context(), c.inst, true), h.Start(c.t.Context(), c.inst)))
		}
		return check(c.t, c.at) > c.seen
	})
}

// host is where the instance's record says that it is.
func (c *cell) host() *node {
	i := c.instance()
	return c.f.hosts[slices.IndexFunc(c.f.hosts, func(h *node) bool { return h.id == i.Host })]
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

// Marks of the table in the page.
const (
	tableBegins = "<!-- written by make lab-test -page: begin -->\n"
	tableEnds   = "<!-- written by make lab-test -page: end -->\n"
)

// notYet is what stands for a cell without a result: one that is none, or has not run.
func notYet(name, kind string) string {
	for _, what := range interruptions {
		if what.name == name && (what.kinds == nil || slices.Contains(what.kinds, kind)) {
			return "not run"
		}
	}
	return "–"
}

// writeTable writes what came of each cell between the marks of a page.
func writeTable(file string, results map[string]map[string]string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(text), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		return fmt.Errorf("%s has not the marks %q and %q", file, tableBegins, tableEnds)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| interruption | %s |\n|---%s|\n", strings.Join(kinds, " | "), strings.Repeat("|---", len(kinds)))
	for _, what := range interruptions {
		if what.what == "" {
			continue // one more row of the same name
		}
		fmt.Fprintf(&b, "| %s: %s |", what.name, what.what)
		for _, kind := range kinds {
			fmt.Fprintf(&b, " %s |", cmp.Or(results[what.name][kind], notYet(what.name, kind)))
		}
		b.WriteString("\n")
	}
	return os.WriteFile(file, []byte(before+tableBegins+b.String()+tableEnds+after), 0o644)
}
