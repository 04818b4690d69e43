// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// The version of a holdfast that is built of the same source as the one under test.
const next = "v0.0.0-next"

// A fleet is upgraded worker by worker while one of its hosts is dead: its incident is held
// when those that do not own it are replaced, and in its course when its owner is. Records
// have fields that no worker knows.
func TestUpgradeWithAnIncidentOpen(t *testing.T) {
	t.Parallel()
	newer := filepath.Join(newHome(t), "holdfast")
	build := exec.Command("go", "build", "-ldflags", "-X main.version="+next, "-o", newer, "github.com/holdfast-ha/holdfast/cmd/holdfast")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", next, err, out)
	}
	f := start(t, "--preset", "fast", "--hosts", "6", "--workers", "3")
	incident := f.upgradeUnderIncident(t, newer)
	for _, w := range f.workers(t) {
		if w.Version != next {
			t.Errorf("worker %s is of version %s, want %s", w.ID, w.Version, next)
		}
	}
	(&table{fleet: f}).replayed(t, incident)
}

// replace ends a worker in order and starts it from another binary; "": the fleet's own.
func (f *fleet) replace(t *testing.T, w, binary string) {
	t.Helper()
	before := f.slots(t)
	f.must(t, "dev", "stop-worker", w)
	f.must(t, "dev", "start-worker", w, "--binary", binary)
	f.awaitReborn(t, w, before)
}

// upgradeUnderIncident replaces all workers of a fleet while an incident is open, checks how
// that ends, and gives its id.
func (f *fleet) upgradeUnderIncident(t *testing.T, binary string) string {
	t.Helper()
	f.awaitAllAvailable(t, time.Minute)
	f.must(t, "settings", "set", "worker.rebalance.rate", "0")
	f.must(t, "ha", "disarm", "--reason", "upgrade")
	victim := f.hosts(t)[0]
	id, was := victim.Spec.ID, victim.Status
	f.breaks(t, id, "crash")
	f.await(t, recoveryLimit, id, "SUSPECT, held by armed", func(s v1.HostStatus) bool {
		return s.State == "SUSPECT" && slices.ContainsFunc(s.Holds, func(h v1.Hold) bool { return h.By == "armed" })
	})
	for _, w := range f.workers(t) {
		if w.ID != was.Owner {
			f.replace(t, w.ID, binary)
		}
	}
	if got := verbs(f.truth(t, id)); len(got) != 0 {
		t.Errorf("power commands %v while it was held", got)
	}
	f.must(t, "ha", "arm", "--reason", "upgrade")
	etcd := f.etcd(t)
	until(t, recoveryLimit, func() string { // it is proven off, and to be switched on by the next owner
		var r ha.Record
		kv, err := etcd.Get(t.Context(), leases.HostHAKey(id))
		if err == nil {
			err = kv.Decode(&r)
		}
		switch {
		case err != nil:
			return err.Error()
		case r.Proof == nil:
			return fmt.Sprintf("no proof: %s (%s)", r.State, r.Reason)
		}
		return ""
	})
	before := f.slots(t)
	f.must(t, "dev", "stop-worker", was.Owner)
	unknownFields(t, etcd, id) // nobody writes it meanwhile
	f.must(t, "dev", "start-worker", was.Owner, "--binary", binary)
	f.awaitReborn(t, was.Owner, before)
	f.await(t, recoveryLimit, id, "AVAILABLE with a new boot", func(s v1.HostStatus) bool { return s.State == "AVAILABLE" && s.Boot != was.Boot })
	f.awaitAllAvailable(t, time.Minute)
	// An ON that was under way when its owner ended is sent again, a cut that is proven never.
	if got := verbs(f.truth(t, id)); len(got) < 2 || got[0] != "off" || slices.ContainsFunc(got[1:], func(v string) bool { return v != "on" }) {
		t.Errorf("power commands %v, want one off, then on: %+v", got, f.truth(t, id))
	}
	f.checkOthers(t, id)

	all, err := f.client.Incidents(t.Context(), id)
	if err != nil || len(all) != 1 {
		t.Fatalf("%d incidents, %v, want one: %+v", len(all), err, all)
	}
	i := all[0]
	if i.Outcome == "" || i.Ended.IsZero() || i.Proof == nil || i.Proof.Boot != was.Boot {
		t.Errorf("incident ended at %v with %q and proof %+v, want one of boot %s", i.Ended, i.Outcome, i.Proof, was.Boot)
	}
	x := &table{fleet: f}
	if used := x.budget(t, id); used != 1 {
		t.Errorf("%d power-downs spent, want one", used)
	}
	x.inOrder(t, id, "ha.suspect", "ha.checking", "ha.hold-placed", "ha.recovering", "ha.safe-to-restart", "ha.initializing", "ha.available")
	if released := ofType(f.events(t, id), "ha.safe-to-restart"); len(released) != 1 {
		t.Errorf("released %d times, want once: %+v", len(released), released)
	}
	if d := cmp.Diff(was.Instances, x.released(t, id, was.Boot)); d != "" || len(was.Instances) == 0 {
		t.Errorf("released instances (-want +got): %s", d)
	}
	for _, key := range []string{leases.HostHAKey(id), leases.IncidentKey(id, i.ID)} {
		if got := string(fields(t, etcd, key)["later"]); got != later {
			t.Errorf("%s: later is %q, want %s, which no version of today knows", key, got, later)
		}
	}
	return i.ID
}

// later is the value of a field that no version of today knows.
const later = `{"since":"tomorrow"}`

// unknownFields puts fields of a version to come into the record of a host and into its open
// incident. Nobody else may write it meanwhile.
func unknownFields(t *testing.T, c *leases.Client, host string) {
	t.Helper()
	key := leases.HostHAKey(host)
	kv, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	var all, incident map[string]json.RawMessage
	if err := json.Unmarshal(kv.Value, &all); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(all["incident"], &incident); err != nil {
		t.Fatalf("%s: its incident: %v", key, err)
	}
	all["later"], incident["later"] = json.RawMessage(later), json.RawMessage(later)
	if all["incident"], err = json.Marshal(incident); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(all)
	if err == nil {
		_, err = c.Commit(t.Context(), leases.Unowned().At(key, kv.ModRevision), leases.Put(key, json.RawMessage(text)))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fields are those of a record in etcd.
func fields(t *testing.T, c *leases.Client, key string) map[string]json.RawMessage {
	t.Helper()
	kv, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(kv.Value, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// etcd is the fleet's etcd.
func (f *fleet) etcd(t *testing.T) *leases.Client {
	t.Helper()
	var status struct {
		Etcd string `json:"etcd"`
	}
	if err := json.Unmarshal([]byte(f.must(t, "dev", "status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	c, err := leases.Dial(t.Context(), leases.Config{Endpoints: []string{status.Etcd}, DialTimeout: startTime})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
