// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// TestRestoreDrill goes through docs/etcd-restore.md step by step: a snapshot as
// `etcdctl snapshot save` makes it, a world that goes on, all workers stopped, `etcdutl
// snapshot restore` of every member with the page's flags, automation forbidden before the
// workers start, the generation raised, armed again. Nobody is suspected, agents obey, what
// the backup had is there, and what it did not have is not.
func TestRestoreDrill(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "etcd-restore.md"))
	if err != nil {
		t.Fatal(err)
	}
	const disarm = `{"v":1,"value":"false","by":"restore","reason":"etcd restored"}`
	steps := []string{
		"Stop all workers", "etcdctl snapshot save", "etcdutl snapshot restore", "--bump-revision 1000000000 --mark-compacted", "--initial-cluster-token holdfast-1",
		"etcdctl put /holdfast/v1/settings/global/ha.armed", disarm, "Start the workers.", "holdfast etcd raise-generation --dry-run", "holdfast ha arm",
	}
	for rest, i := string(page), 0; i < len(steps); i++ {
		_, after, ok := strings.Cut(rest, steps[i])
		if !ok {
			if strings.Contains(string(page), steps[i]) {
				continue // the page names it earlier, too
			}
			t.Errorf("docs/etcd-restore.md has no step %q any more: this drill follows another page", steps[i])
			continue
		}
		if i > 1 { // from the restore on they are in order
			rest = after
		}
	}

	c := etcdtest.StartCluster(t, etcdtest.Config{Members: 3})
	f := &fleet{rig: &rig{client: c.Client(t), endpoints: c.Endpoints(), ttl: minTTL}, cluster: c, hosts: []string{"h1", "h2", "h3"}}
	quickPings(t, f.rig)
	for _, h := range f.hosts {
		f.host(t, h, true)
	}
	first, stop := f.worker(t, "w1")
	f.w = first
	agents := remembering(t, first, f.hosts...)
	eventually(t, "all hosts are AVAILABLE", func() bool { return f.all(t, ha.Available) })
	file := c.Snapshot(t)

	// The world goes on: a host is declared, and agents obey an owner that the backup does not know.
	f.put(t, leases.PoolKey("later"), struct{}{})
	slot := leases.SlotKey(first.slotOf(cluster, ""))
	before := maps.Clone(f.epochs(t))
	first.renewSlot(first.slotOf(cluster, ""))
	eventually(t, "agents obey a newer epoch", func() bool {
		seen, linked := agents["h1"].is()
		return linked && seen.Revision > before[slot]
	})
	for _, m := range agents { // nobody answers them while it is restored
		m.set(func(m *memory) { m.silent = true })
	}
	stop()

	c.Restore(t, file, etcdtest.Restore{BumpRevision: 1_000_000_000})
	if _, err := c.Client(t).Commit(t.Context(), leases.Unowned(), leases.Put(leases.SettingKey("global", "ha.armed"), []byte(disarm))); err != nil {
		t.Fatal(err)
	}
	f.client = c.Client(t)

	f.w, _ = f.worker(t, "w1")
	again := remembering(t, f.w, f.hosts...)
	for h, m := range again { // the same agents: they remember
		seen, _ := agents[h].is()
		m.set(func(m *memory) { m.seen = seen })
	}
	b := (*backend)(f.w)
	eventually(t, "the worker is ready", func() bool {
		f.w.mu.Lock()
		joined := f.w.session != nil
		f.w.mu.Unlock()
		return joined && b.Ready() == nil
	})
	trial, _ := api.WithTrial(t.Context())
	plan, err := b.RaiseGeneration(trial, "ann", v1.GenerationRequest{})
	if err != nil || plan.From != 1 || plan.To != 2 {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	if _, err := b.RaiseGeneration(t.Context(), "ann", v1.GenerationRequest{From: plan.From, Reason: "restored the backup of 04:00"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all agents obey the new generation", func() bool {
		for _, m := range again {
			if seen, linked := m.is(); !linked || seen.Generation != 2 {
				return false
			}
		}
		return true
	})
	eventually(t, "the warnings are gone", func() bool { return severityOf(f.w, etcdWentBack) == "" })
	eventually(t, "all hosts are AVAILABLE", func() bool { return f.all(t, ha.Available) })
	spec, _ := f.w.view.spec("h1")
	if len(f.w.view.disarmed(spec.Val.Partition, "h1", time.Now())) == 0 {
		t.Error("automation may act although the page forbids it before the workers start")
	}
	if _, err := b.Arm(t.Context(), "ann", "global", v1.Switch{On: true}); err != nil {
		t.Fatal(err)
	}
	if _, rev := read[map[string]any](t, f.rig, leases.PoolKey("later")); rev != 0 {
		t.Error("what was declared after the backup is there: this was no restore")
	}
	if got := suspects(t, f.rig); len(got) > 0 {
		t.Errorf("suspected:\n%s", strings.Join(got, "\n"))
	}
}
