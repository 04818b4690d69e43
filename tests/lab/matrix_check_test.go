// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/sim/sequence"
	"github.com/holdfast-ha/holdfast/tests/lab"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

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
		journal := filepath.Join(agentDir(h.node), "journal")
		if files, err := filepath.Glob(filepath.Join(journal, "aside", "*")); err != nil || len(files) > 0 {
			t.Errorf("journal of %s: %v (%v)", h.id, files, err)
		}
		files, err := filepath.Glob(filepath.Join(journal, "*[0-9]*")) // a file's name does not say whose it is
		must(t, err)
		for _, file := range files {
			if text, err := os.ReadFile(file); err != nil || bytes.Contains(text, []byte(c.id)) {
				t.Errorf("journal of %s: %s is of this command (%v)", h.id, file, err)
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
