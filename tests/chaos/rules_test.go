// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/coordinator/ring"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/sim/bmc"
)

// tale is a short, good history, for a test to spoil.
type tale struct {
	observed
	rev int64
}

var taleBegan = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(s float64) time.Time { return taleBegan.Add(time.Duration(s * float64(time.Second))) }

func (x *tale) add(seconds float64, key string, lease int64, val any) int64 {
	x.rev++
	c := change{Rev: x.rev, Key: key, Lease: lease, Del: val == nil, Seen: at(seconds)}
	if val != nil {
		c.Val, _ = json.Marshal(val)
	}
	x.changes = append(x.changes, c)
	x.marks = append(x.marks, mark{at(seconds - 0.05), x.rev - 1})
	return x.rev
}

func (x *tale) by(rev int64, worker string, mod, create map[string]int64) {
	for a, w := range x.senders {
		if w == worker {
			x.audit[rev] = transaction{Revision: rev, Done: true, From: a, Mod: mod, Create: create}
		}
	}
}

type fields = map[string]any

const taleHost, talePath = "h1", "z/p/c"

var taleSlot = leases.SlotKey(ring.SlotOf(talePath, slotCount))

// newTale: w1 owns the host's slot, switches the broken host off, and hands over to w2,
// which switches it on.
func newTale() *tale {
	x := &tale{observed: observed{
		audit: map[int64]transaction{}, senders: map[netip.Addr]string{netip.MustParseAddr("127.0.0.1"): "w1", netip.MustParseAddr("127.0.0.2"): "w2"},
		partition: map[string]string{taleHost: talePath}, dead: map[string]bool{taleHost: true},
		broken: []span{{who: taleHost, from: at(1)}},
	}}
	x.add(0, leases.WorkerKey("w1"), 11, fields{"worker": "w1", "boot": "a"})
	x.add(0, leases.WorkerKey("w2"), 12, fields{"worker": "w2", "boot": "b"})
	e1 := x.add(0.5, taleSlot, 11, fields{"worker": "w1", "boot": "a"})
	x.by(e1, "w1", nil, map[string]int64{taleSlot: 0})
	x.write(2, "w1", e1, leases.HostHAKey(taleHost), fields{"state": "AVAILABLE"})
	x.write(3, "w1", e1, leases.HostHAKey(taleHost), fields{"state": "SUSPECT"})
	x.write(4, "w1", e1, leases.OpsKey(taleHost), fields{"verb": "off", "worker": "w1", "epoch": fmt.Sprintf("1.%d", e1)})
	x.packet(4.5, "w1", bmc.VerbOff)
	x.write(5, "w1", e1, leases.OpsKey(taleHost), nil)
	e2 := x.add(6, taleSlot, 12, fields{"worker": "w2", "boot": "b", "from": "a"})
	x.by(e2, "w1", map[string]int64{taleSlot: e1}, nil)
	x.write(7, "w2", e2, leases.OpsKey(taleHost), fields{"verb": "on", "worker": "w2", "boot": "b", "epoch": fmt.Sprintf("1.%d", e2)})
	x.packet(7.5, "w2", bmc.VerbOn)
	return x
}

func (x *tale) write(seconds float64, worker string, epoch int64, key string, val any) {
	x.by(x.add(seconds, key, 0, val), worker, map[string]int64{taleSlot: epoch}, nil)
}

func (x *tale) packet(seconds float64, user string, v bmc.Verb) {
	x.packets = append(x.packets, bmc.Entry{At: at(seconds), BMC: taleHost, User: user, Verb: v})
}

// rules are the names before the colon.
func rules(found []string) []string {
	out := map[string]bool{}
	for _, f := range found {
		rule, _, _ := strings.Cut(f, ":")
		out[rule] = true
	}
	return slices.Sorted(maps.Keys(out))
}

// Each rule holds for the good tale, and finds what it is there to find.
func TestRulesFind(t *testing.T) {
	const epoch1, epoch2 = 3, 8
	for _, c := range []struct {
		name  string
		spoil func(*tale)
		want  []string
	}{
		{"nothing", func(*tale) {}, nil},
		{"a slot taken from a live owner", func(x *tale) {
			x.by(x.add(8, taleSlot, 11, fields{"worker": "w1", "boot": "a"}), "w1", map[string]int64{taleSlot: epoch2}, nil)
		}, []string{"one writer"}},
		{"a claim that compares nothing", func(x *tale) {
			x.by(x.add(8, leases.SlotKey(1), 11, fields{"worker": "w1", "boot": "a"}), "w1", nil, nil)
		}, []string{"one writer"}},
		{"a slot under a stranger's lease", func(x *tale) {
			x.by(x.add(8, leases.SlotKey(1), 12, fields{"worker": "w1", "boot": "a"}), "w1", nil, map[string]int64{leases.SlotKey(1): 0})
		}, []string{"one writer"}},
		{"another's slot deleted", func(x *tale) {
			x.by(x.add(8, taleSlot, 0, nil), "w1", map[string]int64{taleSlot: epoch2}, nil)
		}, []string{"one writer"}},
		{"a slot that vanishes under a live lease", func(x *tale) { x.add(8, taleSlot, 0, nil) }, []string{"one writer"}},
		{"a write in a past epoch", func(x *tale) {
			x.write(8, "w2", epoch1, leases.HostHAKey(taleHost), fields{"state": "SUSPECT"})
		}, []string{"no stale write"}},
		{"a write by another than the owner", func(x *tale) {
			x.write(8, "w1", epoch2, leases.HostHAKey(taleHost), fields{"state": "SUSPECT"})
		}, []string{"no stale write"}},
		{"a write that compares nothing", func(x *tale) {
			x.by(x.add(8, leases.HostHAKey(taleHost), 0, fields{"state": "SUSPECT"}), "w2", nil, nil)
		}, []string{"no stale write"}},
		{"an intent that names a past epoch", func(x *tale) {
			x.write(8, "w2", epoch2, leases.OpsKey(taleHost), fields{"verb": "on", "worker": "w2", "epoch": "1.3"})
		}, []string{"no stale write", "one writer"}},
		{"an event that names another writer", func(x *tale) {
			x.add(8, leases.EventKey("e"), 0, fields{"host": taleHost, "worker": "w1", "data": fields{"epoch": "1.8"}})
		}, []string{"no stale write", "one writer"}},
		{"a write without any owner", func(x *tale) {
			x.by(x.add(8, leases.HostHAKey("h9"), 0, fields{"state": "NONE"}), "w2", nil, nil)
		}, []string{"no stale write"}},
		{"a packet before its intent", func(x *tale) { x.packets[0].At = at(3.5) }, []string{"no packet without intent"}},
		{"a packet of another verb", func(x *tale) { x.packets[0].Verb = bmc.VerbReset }, []string{"no packet without intent"}},
		{"a packet of another worker", func(x *tale) { x.packets[1].User = "w1" }, []string{"no packet without intent"}},
		{"a packet long after its intent", func(x *tale) { x.packet(7.2, "w1", bmc.VerbOff) }, []string{"no packet without intent"}},
		{"a late packet of the old epoch after the new one's opposite", func(x *tale) {
			for i := range x.changes {
				if x.changes[i].Key == leases.OpsKey(taleHost) && x.changes[i].Del {
					x.changes[i].Seen = at(7.4)
				}
			}
			x.packet(8, "w1", bmc.VerbOff)
		}, []string{"no stray opposite verb"}},
		{"an intent of who has ended", func(x *tale) {
			x.add(7.6, leases.EndsKey("w2", "b"), 0, fields{"how": "reaped"})
			x.write(8, "w2", epoch2, leases.OpsKey(taleHost), fields{"verb": "on", "worker": "w2", "boot": "b", "epoch": "1.8"})
		}, []string{"the dead are silent"}},
		{"a packet of who has ended", func(x *tale) {
			x.add(7.6, leases.EndsKey("w2", "b"), 0, fields{"how": "released"})
			x.packet(8.5, "w2", bmc.VerbOn)
		}, []string{"the dead are silent"}},
		{"a packet of whom only the lease has ended", func(x *tale) {
			x.add(7.6, leases.EndsKey("w2", "b"), 0, fields{"how": "expired"})
			x.packet(8.5, "w2", bmc.VerbOn)
		}, nil},
		{"power to a host that is well", func(x *tale) { delete(x.dead, taleHost) }, []string{"no power to the innocent"}},
		{"a suspicion of a host that is well", func(x *tale) { x.broken = nil }, []string{"no false suspect"}},
		{"a suspicion by a worker whose link is cut", func(x *tale) { x.broken[0].who = "w1" }, nil},
		{"a suspicion by another than the one that is cut", func(x *tale) { x.broken[0].who = "w2" }, []string{"no false suspect"}},
		{"a suspicion while the carrier's link is cut", func(x *tale) {
			x.changes = slices.Insert(x.changes, 0, change{Key: leases.LinkKey(taleHost), Val: []byte(`{"v":1,"worker":"w2"}`), Seen: at(0)})
			x.broken[0].who = "w2"
		}, nil},
		{"a suspicion long after the repair", func(x *tale) { x.broken[0] = span{who: taleHost, from: at(-60), to: at(-30)} }, []string{"no false suspect"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newTale()
			c.spoil(x)
			found, _ := check(x.observed)
			if diff := cmp.Diff(c.want, rules(found)); diff != "" {
				t.Errorf("rules that found something (-want +got):\n%s\n%s", diff, strings.Join(found, "\n"))
			}
		})
	}
}

// The same seed is the same schedule; another is another; nothing happens after its end,
// and one worker is always left alone.
func TestSchedulesAreData(t *testing.T) {
	for seed := range uint64(200) {
		s := generate(seed, fullShape)
		if diff := cmp.Diff(s, generate(seed, fullShape)); diff != "" {
			t.Fatalf("seed %d gives two schedules:\n%s", seed, diff)
		}
		if s.String() == generate(seed+1, fullShape).String() {
			t.Errorf("seeds %d and %d give the same schedule", seed, seed+1)
		}
		for i, f := range s.Faults {
			busy := map[string]bool{}
			for _, g := range s.Faults[:i+1] {
				if strings.HasPrefix(g.Target, "w") && g.At+g.For > f.At {
					busy[g.Target] = true
				}
			}
			if len(busy) >= s.Workers && strings.HasPrefix(f.Target, "w") {
				t.Errorf("seed %d at %v: every worker has a fault", seed, f.At)
			}
		}
	}
}

// The model of a register with fencing refuses what must not be.
func TestRegisterRefuses(t *testing.T) {
	held := cell{epoch: 7, rev: 8, content: "x"}
	for _, c := range []struct {
		name string
		s    cell
		in   call
		out  answer
		want bool
	}{
		{"a claim of what nobody holds", cell{}, call{op: "put"}, answer{how: "done", epoch: 3}, true},
		{"a claim of what is held", held, call{op: "put"}, answer{how: "done", epoch: 9}, false},
		{"a claim that says more than is so", held, call{op: "claim"}, answer{how: "done", epoch: 9}, false},
		{"an end of what was not held", held, call{op: "gone", epoch: 6}, answer{how: "done"}, false},
		{"a refused claim of what nobody holds", cell{}, call{op: "claim"}, answer{how: "refused"}, false},
		{"a commit in the present epoch", held, call{op: "commit", epoch: 7, rev: -1}, answer{how: "done"}, true},
		{"a commit in a past epoch", held, call{op: "commit", epoch: 6, rev: -1}, answer{how: "done"}, false},
		{"a commit over a newer record", held, call{op: "commit", epoch: 7, rev: 5}, answer{how: "done"}, false},
		{"an owner that is refused", held, call{op: "commit", epoch: 7, rev: -1}, answer{how: "fenced"}, false},
		{"a conflict that is none", held, call{op: "commit", epoch: 7, rev: 8}, answer{how: "conflict"}, false},
		{"a hand-over by who does not hold", held, call{op: "hand-over", epoch: 6}, answer{how: "done", epoch: 9}, false},
		{"a read of the past", held, call{op: "read"}, answer{how: "done", rev: 5, content: "w"}, false},
	} {
		if got, _ := step(c.s, c.in, c.out); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
