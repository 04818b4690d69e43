// SPDX-License-Identifier: Apache-2.0

package commands

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/agent/journal"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/leases"
	sim "github.com/holdfast-ha/holdfast/sim/hypervisor"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// "1,000 commands at once over 100 simulated hosts: none lost, etcd writes per command
// ≤ 12, a stuck one delays nobody." A copy each: the simulated pools find users by a walk
// of /proc, and a hundred hosts in one process have many open files.
func TestAThousandAtOnce(t *testing.T) {
	hosts := 10
	if *full {
		hosts = 100
	}
	atOnce(t, hosts, 10, "copy")
}

var full = flag.Bool("full", false, "a thousand commands over a hundred hosts, instead of a hundred over ten")

// Moves are the commands that write most: their sources are tidied.
func TestManyMoves(t *testing.T) { atOnce(t, 5, 10, "migrate-volume") }

func atOnce(t *testing.T, hosts, each int, kind string) {
	r := newRig(t)
	r.ttl = time.Minute // the load is that of a hundred hosts on one machine
	r.put(leases.SettingKey("global", "agent.ping.interval"), v1.SettingRecord{V: 1, Value: "5s", By: "test"})
	r.worker("w1")
	var all []*host
	var pools [][2]dirs.Dir
	for n := range hosts {
		id := fmt.Sprintf("m%d", n)
		a, b := r.pool("a-"+id, hypervisor.Local, "primary", id), r.pool("b-"+id, hypervisor.Local, "primary", id)
		pools = append(pools, [2]dirs.Dir{a, b})
		for k := range each {
			v := fmt.Sprintf("v-%s-%d", id, k)
			r.must(os.WriteFile(filepath.Join(a.Path, v+".raw"), make([]byte, 64<<10), 0o600))
			r.put(leases.VolumeKey(v), v1.Volume{V: 1, ID: v, Place: v1.Place{Pool: a.ID, Path: v + ".raw"}, Format: "raw", Size: 64 << 10, State: "ready"})
		}
	}
	for n, p := range pools {
		all = append(all, r.host(fmt.Sprintf("m%d", n), p[0], p[1]))
	}
	r.linked(all...)
	stuck := pools[0][1].ID // nothing that goes there comes to an end
	r.must(all[0].faults.Set(map[string]sim.Fault{stuck: {Kind: sim.Hang}}))
	quiet(r)
	before, err := r.client.Revision(context.Background())
	r.must(err)
	began := time.Now()
	ids := make([]string, hosts*each)
	work := make(chan int)
	var asking sync.WaitGroup
	for range 32 {
		asking.Go(func() {
			for n := range work {
				id := all[n/each].id
				q := v1.CommandRequest{Kind: kind, Volume: fmt.Sprintf("v-%s-%d", id, n%each), Pool: "b-" + id, Key: fmt.Sprintf("k%d", n)}
				if kind == "copy" {
					q.As, q.Host = fmt.Sprintf("n-%s-%d", id, n%each), id
				}
				eventually(t, fmt.Sprintf("command %d is on record", n), func() bool {
					c, err := r.api.NewCommand(context.Background(), q)
					if ids[n] = c.ID; err != nil {
						t.Logf("command %d: %v; asked again", n, err)
					}
					return err == nil
				})
			}
		})
	}
	for n := range hosts * each {
		work <- n
	}
	close(work)
	asking.Wait()
	asked := time.Since(began)
	for n := each; n < hosts*each; n++ {
		rec := r.over(all[n/each].id, ids[n])
		if rec.Outcome == nil || !rec.Outcome.Done {
			t.Fatalf("command %d: %s %s", n, rec.State, rec.Reason)
		}
	}
	took := time.Since(began)
	after, err := r.client.Revision(context.Background())
	r.must(err)
	writes := float64(after-before) / float64(hosts*each)
	t.Logf("%d commands asked for in %v, over in %v, %.1f writes of etcd each", hosts*each, asked.Round(time.Millisecond), took.Round(time.Millisecond), writes)
	if writes > 12 {
		t.Errorf("%.1f writes of etcd per command, at most 12 are", writes)
	}
	if rec, _ := record[command.Record](r, leases.CommandKey("m0", ids[0])); rec.Released {
		t.Errorf("the stuck one is %s: %s", rec.State, rec.Reason)
	}
	r.must(all[0].faults.Set(nil))
	for n := range each {
		if rec := r.over("m0", ids[n]); rec.Outcome == nil {
			t.Errorf("the stuck one did not end: %s", rec.State)
		}
	}
	for n := range hosts {
		left, err := os.ReadDir(pools[n][0].Path)
		there, err2 := os.ReadDir(pools[n][1].Path)
		kept := 0
		if kind == "copy" {
			kept = each
		}
		if err := errors.Join(err, err2); err != nil || n > 0 && (len(left) != kept || len(there) != each) {
			t.Errorf("host %d: %d files left, %d moved (%v)", n, len(left), len(there), err)
		}
	}
}

// quiet waits until nothing is written to etcd any more but now and then.
func quiet(r *rig) {
	var last int64
	eventually(r.t, "etcd is quiet", func() bool {
		rev, err := r.client.Revision(context.Background())
		if err != nil || rev > last+2 {
			last = rev
			within(500 * time.Millisecond)
			return false
		}
		return true
	})
}

// "One open command per resource: the second is refused with the first's id"; the same
// idempotency key is the same command; what cannot be is refused with field, value and
// what is allowed; a host that placement refuses is refused without force, with the reason.
func TestRefusals(t *testing.T) {
	r := newRig(t)
	r.worker("w1")
	ctx := context.Background()
	s := newScene(t, r, "x", "move-live", hypervisor.Local, hypervisor.NFS)
	s.target = r.host("t-x", s.far)
	h := holdAt(s, "transfer")
	c := s.ask()
	h.await()
	_, err := r.api.NewCommand(ctx, v1.CommandRequest{Kind: "migrate-volume", Volume: "v-x", Pool: s.to.ID})
	if err == nil || !strings.Contains(err.Error(), c.ID) {
		t.Errorf("a second command about the volume: %v, want a refusal that names %s", err, c.ID)
	}
	_, err = r.api.NewCommand(ctx, v1.CommandRequest{Kind: "migrate", Instance: s.inst, Host: s.target.id, Force: true})
	if err == nil || !strings.Contains(err.Error(), c.ID) {
		t.Errorf("a command about its instance: %v, want a refusal that names %s", err, c.ID)
	}
	again, err := r.api.NewCommand(ctx, s.req)
	if err != nil || again.ID != c.ID {
		t.Errorf("the same key again: %s %v, want %s", again.ID, err, c.ID)
	}
	h.letGo()
	s.check(r.over(c.Host, c.ID))

	protected, _ := record[v1.Instance](r, leases.InstanceKey(s.inst))
	r.instance("i-z", s.source, false, r.volume("v-z", s.from, "i-z"))
	protected.HA = true // only AVAILABLE hosts are: these have no power device
	r.put(leases.InstanceKey(s.inst), protected)
	for name, q := range map[string]struct {
		r     v1.CommandRequest
		field string
		words []string
	}{
		"no such pool":   {v1.CommandRequest{Kind: "migrate-volume", Volume: "v-x", Pool: "nowhere"}, "pool", []string{`"nowhere"`}},
		"no such volume": {v1.CommandRequest{Kind: "migrate-volume", Volume: "v-y", Pool: s.from.ID}, "", []string{`"v-y"`}},
		"where it is":    {v1.CommandRequest{Kind: "migrate-volume", Volume: "v-x", Pool: s.to.ID}, "pool", []string{s.to.ID}},
		"kind":           {v1.CommandRequest{Kind: "teleport", Volume: "v-x"}, "kind", []string{`"teleport"`, "copy, migrate, migrate-volume"}},
		"two subjects":   {v1.CommandRequest{Kind: "copy", Volume: "v-x", Template: "t"}, "volume", []string{"exactly one"}},
		"deadline":       {v1.CommandRequest{Kind: "migrate-volume", Volume: "v-x", Pool: s.from.ID, Deadline: "soon"}, "deadline", []string{`"soon"`, "2h"}},
		"a running copy": {v1.CommandRequest{Kind: "copy", Volume: "v-x", Pool: s.from.ID, As: "n"}, "", []string{"is running"}},
		"placement":      {v1.CommandRequest{Kind: "migrate", Instance: s.inst, Host: s.target.id}, "", []string{s.target.id, "only AVAILABLE hosts are protected"}},
		"their pool":     {v1.CommandRequest{Kind: "migrate-volume", Volume: "v-x", Pool: s.far.ID}, "pool", []string{s.far.ID, s.source.id, "allowed are pools of that host: " + s.from.ID + ", " + s.to.ID}},
		"a stopped one":  {v1.CommandRequest{Kind: "migrate", Instance: "i-z", Host: s.target.id, Pool: s.far.ID, Force: true}, "", []string{"i-z does not run on " + s.source.id, "stopped, it stays on its host"}},
	} {
		_, err := r.api.NewCommand(ctx, q.r)
		var p *v1.Problem
		if !errors.As(err, &p) || p.Field != q.field {
			t.Errorf("%s: %v, want a problem of field %q", name, err, q.field)
			continue
		}
		for _, w := range q.words {
			if !strings.Contains(p.Detail, w) {
				t.Errorf("%s: %q does not say %s", name, p.Detail, w)
			}
		}
	}
	i, err := v1.GetResource[v1.Instance](ctx, r.api, s.inst)
	r.must(err)
	i.Host = s.target.id
	var p *v1.Problem
	if _, err := v1.PutResource(ctx, r.api, i, i.Revision, false, false); !errors.As(err, &p) || p.Field != "host" {
		t.Errorf("an instance was declared elsewhere: %v", err)
	}
}

// A journal has a command of which there is no record, as after a restore of etcd from an
// older copy: it is told, and the agent keeps what it has.
func TestAnEntryWithoutARecordIsToldAndKept(t *testing.T) {
	r := newRig(t)
	r.worker("w1")
	dir := filepath.Join(r.dir, "m1", "agent", "journal")
	j, err := journal.Open(dir, "before", "p0")
	r.must(err)
	r.must(j.Begin("ghost", command.Spec{V: command.Version, Kind: command.Copy, Items: []command.Item{{Volume: "v"}}}, "taken by the agent"))
	r.linked(r.host("m1", r.pool("a", hypervisor.Local, "primary", "m1")))
	eventually(t, "it is told", func() bool {
		kvs, _, err := r.client.List(context.Background(), leases.EventsPrefix)
		return err == nil && slices.ContainsFunc(kvs, func(kv leases.KV) bool {
			return strings.Contains(string(kv.Value), "command.unknown-entry") && strings.Contains(string(kv.Value), "ghost")
		})
	})
	within(2 * time.Second) // some pings, and their answers
	j, err = journal.Open(dir, "after", "p9")
	r.must(err)
	if e, ok := j.Get("ghost"); !ok || len(j.Problems()) > 0 {
		t.Errorf("the entry is %+v, problems %v", e, j.Problems())
	}
}

// The disk of an agent's journal hangs: its host is as alive as before and says so, with what
// is durable; it begins no command, and goes on with what it has when the disk is back.
func TestAHangingDiskOfTheJournal(t *testing.T) {
	r := newRig(t)
	r.worker("w1")
	s := newScene(t, r, "x", "copy", hypervisor.Local, hypervisor.NFS)
	h := holdAt(s, "transfer")
	c := s.ask()
	h.await()
	r.volume("v-y", s.from, "")
	s.volumes = append(s.volumes, "v-y")
	stall := make(chan struct{})
	s.source.mu.Lock()
	s.source.stall = stall
	s.source.mu.Unlock()
	release := sync.OnceFunc(func() { close(stall) })
	defer release()
	late, err := r.api.NewCommand(t.Context(), v1.CommandRequest{Kind: "copy", Volume: "v-y", Pool: s.to.ID, As: "n-y", Host: s.source.id, Key: "k-y"})
	r.must(err)
	var seen v1.Host
	status := func() v1.HostStatus {
		if x, err := r.api.Host(t.Context(), s.source.id); err == nil {
			seen = x
		}
		return seen.Status
	}
	eventually(t, "it says that its disk hangs", func() bool { return status().DiskHung != "" })
	told := seen.Status.LastPing
	eventually(t, "it goes on with its pings", func() bool { return status().LastPing.Sub(told) > 2*time.Second })
	if seen.Status.Linked != v1.LinkedYes {
		t.Errorf("it is linked: %s", seen.Status.Linked)
	}
	eventually(t, "the command is not begun", func() bool {
		rec, _ := record[command.Record](r, leases.CommandKey(late.Host, late.ID))
		return rec.State == command.Failed && strings.Contains(rec.Reason, "not begun")
	})
	h.letGo()
	release()
	rec := r.over(c.Host, c.ID)
	if rec := r.over(late.Host, late.ID); rec.Outcome == nil || rec.Outcome.Done {
		t.Errorf("the other command became %+v", rec.Outcome)
	}
	s.check(rec)
	eventually(t, "its disk is well", func() bool { return status().DiskHung == "" })
}

// "Agent returns → command RECONCILED ≤ 2 s."
func TestReconciledSoonAfterTheAgentReturns(t *testing.T) {
	r := newRig(t)
	r.worker("w1")
	s := newScene(t, r, "x", "copy", hypervisor.Local, hypervisor.NFS)
	h := holdAt(s, "transfer")
	c := s.ask()
	h.await()
	s.source.kill()
	h.letGo()
	within(time.Second)
	began := time.Now()
	s.source.start()
	eventually(t, "the outcome is on record", func() bool {
		rec, _ := record[command.Record](r, leases.CommandKey(c.Host, c.ID))
		return rec.Outcome != nil
	})
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("RECONCILED %v after the agent's return, at most 2s are", took)
	} else {
		t.Logf("RECONCILED %v after the agent's return", took.Round(time.Millisecond))
	}
	s.check(r.over(c.Host, c.ID))
}

// A cancelled command ends, wherever it is, and leaves everything as it was.
func TestCancel(t *testing.T) {
	r := newRig(t)
	r.worker("w1")
	var all []*hold
	for n, kind := range []string{"copy", "move-stopped", "move-live", "migrate-with"} {
		all = append(all, holdAt(newScene(t, r, fmt.Sprintf("c%d", n), kind, hypervisor.Local, hypervisor.NFS), "transfer"))
	}
	each(all, func(_ int, h *hold) {
		c := h.ask()
		h.await()
		if _, err := r.api.OrderCommand(context.Background(), c.ID, "cancel", v1.CommandOrder{Reason: "test"}); err != nil {
			t.Errorf("cancel %s: %v", h.name, err)
		}
		within(200 * time.Millisecond)
		h.letGo()
		rec := r.over(c.Host, c.ID)
		h.check(rec)
		t.Logf("%s: %s, done %v: %s", h.name, rec.State, rec.Outcome != nil && rec.Outcome.Done, rec.Reason)
	})
}
