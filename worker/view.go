// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/budget"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/coordinator/ring"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// versioned is a decoded record with the revision it was read at.
type versioned[T any] struct {
	Rev int64
	Val T
}

// slotValue is the value of a slot key.
type slotValue struct {
	Worker string    `json:"worker"`
	Boot   string    `json:"boot"`
	Since  time.Time `json:"since"`
	From   string    `json:"from"`
}

// powerRecord is the value of hosts/<host>/power.
type powerRecord struct {
	V       int                     `json:"v"`
	Machine power.Machine           `json:"machine"`
	Devices map[string]deviceRecord `json:"devices,omitempty"`
}

// deviceRecord is what is known of one power device beside its readings.
type deviceRecord struct {
	Pinned    power.Identity `json:"pinned,omitzero"`
	Seen      power.Identity `json:"seen,omitzero"`       // what it answered as in its last test, where that is not what is pinned
	Enrolment int            `json:"enrolment,omitempty"` // the one that was pinned
	Tested    time.Time      `json:"tested,omitzero"`
	TestOK    bool           `json:"testOK,omitempty"`
	Passed    time.Time      `json:"passed,omitzero"` // last test that passed, with this configuration
	TestErr   string         `json:"testError,omitempty"`
	TestKind  string         `json:"testKind,omitempty"` // kind of the error that was told last
	Depth     depth          `json:"depth,omitempty"`
	Config    string         `json:"config,omitempty"` // what was tested
}

// view is the worker's typed copy of what it watches in etcd. It is written by the
// mirror's goroutine only and read by all; values in it are never changed in place.
type view struct {
	log *slog.Logger

	mu       sync.RWMutex
	specs    map[string]versioned[v1.HostSpec]
	byPart   map[string]map[string]bool // hosts of each partition
	specsNow int64                      // bumped at every change of a spec
	ha       map[string]versioned[ha.Record]
	power    map[string]leases.KV       // decoded only when asked for: at a start there are as many as hosts
	boxes    map[string]map[string]bool // hosts by the boxes that their devices answered as
	boxesOf  map[string][]string        // and those boxes by host
	parts    map[string]versioned[v1.PartitionSpec]
	states   map[string]versioned[ha.PartitionRecord]
	areas    map[string]versioned[ha.AreaRecord]
	areaEnds map[string]time.Time // when storms ended, by this worker's clock
	budgets  map[string]versioned[budget.Counter]
	workers  map[string]versioned[v1.Worker]
	drains   map[string]versioned[v1.Drain]
	slots    map[int]versioned[slotValue]
	links    map[string]versioned[linkRecord]
	indices  map[int]versioned[indexRecord]
	indexOf  map[string]int                                    // by host
	ends     map[string]versioned[leases.EndRecord]            // worker/boot
	secrets  map[string]versioned[secretRecord]                // by etcd key
	config   map[string]versioned[leases.GenerationRecord]     // its one key
	settings map[string]map[string]versioned[v1.SettingRecord] // scope, name
	profiles map[string]versioned[v1.ProfileRecord]            // scope
	version  int64                                             // of settings and profiles: bumped at every change
	cache    map[string]cachedSettings                         // by host id
	census   *census
	newer    map[string]bool // keys whose records a newer worker wrote: not read

	laid   sync.Mutex // guards layout, inside of mu
	layout layout

	changed func(kind, id string) // told after each change, outside the lock
}

func newView(log *slog.Logger, changed func(kind, id string)) *view {
	v := &view{
		log: log, changed: changed,
		specs: map[string]versioned[v1.HostSpec]{}, byPart: map[string]map[string]bool{}, ha: map[string]versioned[ha.Record]{},
		power: map[string]leases.KV{}, boxes: map[string]map[string]bool{}, boxesOf: map[string][]string{}, parts: map[string]versioned[v1.PartitionSpec]{},
		states: map[string]versioned[ha.PartitionRecord]{}, workers: map[string]versioned[v1.Worker]{},
		drains: map[string]versioned[v1.Drain]{}, ends: map[string]versioned[leases.EndRecord]{},
		config: map[string]versioned[leases.GenerationRecord]{}, secrets: map[string]versioned[secretRecord]{},
		links: map[string]versioned[linkRecord]{}, indices: map[int]versioned[indexRecord]{}, indexOf: map[string]int{},
		slots: map[int]versioned[slotValue]{}, settings: map[string]map[string]versioned[v1.SettingRecord]{},
		profiles: map[string]versioned[v1.ProfileRecord]{}, areas: map[string]versioned[ha.AreaRecord]{}, areaEnds: map[string]time.Time{}, budgets: map[string]versioned[budget.Counter]{}, cache: map[string]cachedSettings{}, census: newCensus(), newer: map[string]bool{},
	}
	v.recount(time.Now())
	return v
}

// apply takes one change of the mirror. A value that cannot be decoded is reported and
// leaves the earlier one in place: one bad record must not blind the worker to others.
func (v *view) apply(c leases.Change) {
	kind, id := "", ""
	var err error
	v.mu.Lock()
	if host, part, ok := leases.SplitHostKey(c.Key); ok {
		kind, id = "host-"+part, host
		switch part {
		case "spec":
			v.specsNow++
			delete(v.byPart[v.specs[id].Val.Partition], id)
			err = put(v.specs, id, c)
			if s, ok := v.specs[id]; ok {
				add(v.byPart, s.Val.Partition, id)
			}
		case "ha":
			err = put(v.ha, id, c)
		case "power":
			err = v.putPower(id, c)
		}
	} else if path, part, ok := leases.SplitPartitionKey(c.Key); ok {
		kind, id = "partition-"+part, path
		if part == "spec" {
			err = put(v.parts, id, c)
		} else {
			err = put(v.states, id, c)
		}
	} else if scope, ok := strings.CutPrefix(c.Key, leases.BudgetsPrefix); ok {
		kind, id = "budgets", scope
		err = put(v.budgets, id, c)
	} else if area, ok := strings.CutPrefix(c.Key, leases.AreasPrefix); ok {
		kind, id = "areas", area
		had, known := v.areas[id]
		err = put(v.areas, id, c)
		v.areaEnded(id, had.Val, known)
	} else if slot, ok := leases.SplitSlotKey(c.Key); ok {
		kind = "slots"
		err = put(v.slots, slot, c)
	} else if host, ok := strings.CutPrefix(c.Key, leases.LinksPrefix); ok {
		kind, id = "links", host
		err = put(v.links, host, c)
	} else if n, ok := leases.SplitIndexKey(c.Key); ok {
		kind = "indices"
		err = v.putIndex(n, c)
	} else if worker, boot, ok := leases.SplitEndsKey(c.Key); ok {
		kind, id = "ends", worker
		err = put(v.ends, worker+"/"+boot, c)
	} else if worker, ok := strings.CutPrefix(c.Key, leases.WorkersPrefix); ok {
		kind, id = "workers", worker
		err = put(v.workers, id, c)
	} else if worker, ok := strings.CutPrefix(c.Key, leases.DrainsPrefix); ok {
		kind, id = "drains", worker
		err = put(v.drains, id, c)
	} else if rest, ok := strings.CutPrefix(c.Key, leases.SecretsPrefix); ok {
		kind = "secrets"
		id, _, _ = strings.Cut(rest, "/")
		err = put(v.secrets, c.Key, c)
	} else if c.Key == leases.ConfigGenerationKey() {
		kind = "generation"
		err = put(v.config, c.Key, c)
	} else if scope, name, ok := splitSetting(c.Key); ok {
		kind, id = "settings", scope
		m := maps.Clone(v.settings[scope])
		if m == nil {
			m = map[string]versioned[v1.SettingRecord]{}
		}
		err = put(m, name, c)
		v.settings[scope] = m
		v.version++
	} else if scope, ok := strings.CutPrefix(c.Key, leases.ProfilesPrefix); ok {
		kind, id = "profiles", scope
		err = put(v.profiles, scope, c)
		v.version++
	}
	if errors.Is(err, leases.ErrTooNew) {
		v.newer[c.Key] = true
	} else {
		delete(v.newer, c.Key)
	}
	v.mu.Unlock()
	if err != nil {
		v.log.Error("unreadable record", "key", c.Key, "cause", err)
		return
	}
	switch kind {
	case "host-spec", "host-ha":
		v.count(id)
	case "settings":
		v.recount(time.Now())
	}
	v.changed(kind, id)
}

// tooNew are the keys of records that only a newer worker can read.
func (v *view) tooNew() []string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return slices.Sorted(maps.Keys(v.newer))
}

// storm is an area incident as it is on record.
func (v *view) storm(area string) (guard.AreaNow, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	r, ok := v.areas[area]
	return guard.AreaNow{Open: r.Val.Open, Ended: v.areaEnds[area]}, ok
}

// areaEnded keeps when a storm ended, after a record has replaced another. The caller holds
// the lock.
func (v *view) areaEnded(area string, had ha.AreaRecord, known bool) {
	r, ok := v.areas[area]
	if !ok || !r.Val.Over() {
		delete(v.areaEnds, area)
		return
	}
	now := time.Now()
	v.areaEnds[area] = now.Add(-r.Val.EndedAgo(had, known, now.Sub(v.areaEnds[area]), now))
}

func put[K comparable, T any](m map[K]versioned[T], id K, c leases.Change) error {
	if c.Deleted {
		delete(m, id)
		return nil
	}
	var val T
	if err := c.KV.Decode(&val); err != nil {
		return err
	}
	m[id] = versioned[T]{c.KV.ModRevision, val}
	return nil
}

func (v *view) putPower(host string, c leases.Change) error {
	if c.Deleted {
		delete(v.power, host)
		v.keepBoxes(host, boxRecord{})
		return nil
	}
	if err := c.KV.CheckVersion(); err != nil {
		return err
	}
	var has boxRecord
	if err := c.KV.Decode(&has); err != nil {
		return err
	}
	v.power[host] = c.KV
	v.keepBoxes(host, has)
	return nil
}

// powerOf is the power record of a host as it is on record; empty where there is none, or none
// that can be read.
func (v *view) powerOf(host string) (out powerRecord) {
	v.mu.RLock()
	kv, ok := v.power[host]
	v.mu.RUnlock()
	if !ok {
		return out
	}
	if err := kv.Decode(&out); err != nil {
		v.log.Error("unreadable record", "key", kv.Key, "cause", err)
		return powerRecord{}
	}
	return out
}

// powerRev is the revision of that record, 0 without one.
func (v *view) powerRev(host string) int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.power[host].ModRevision
}

func get[K comparable, T any](v *view, m map[K]versioned[T], id K) (versioned[T], bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	x, ok := m[id]
	return x, ok
}

// generation is that of the etcd data, 0 while it is not known.
func (v *view) generation() int64 {
	g, _ := get(v, v.config, leases.ConfigGenerationKey())
	return g.Val.Generation
}

func (v *view) spec(host string) (versioned[v1.HostSpec], bool) { return get(v, v.specs, host) }

// underWay: by its record something is being done about a host, or waits to be.
func (v *view) underWay(host string) bool {
	r, _ := get(v, v.ha, host)
	return underWay(&r.Val)
}

func underWay(r *ha.Record) bool {
	i := r.Incident
	return i != nil && i.Ended.IsZero() || r.Off != nil || r.OrderTxn != nil || r.Gate != nil
}

// hosts lists all host specs.
func (v *view) hosts() map[string]versioned[v1.HostSpec] {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return maps.Clone(v.specs)
}

// specsVersion changes whenever any host's spec does.
func (v *view) specsVersion() int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.specsNow
}

// inSlots are the hosts and the partitions in those of the slots that are wanted.
func (v *view) inSlots(slots int, wanted func(slot int) bool) (hosts, parts map[int]map[string]bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	hosts, parts = map[int]map[string]bool{}, map[int]map[string]bool{}
	for path, members := range v.byPart {
		n := ring.SlotOf(path, slots)
		if path != "" && (len(members) == 0 || !wanted(n)) {
			continue
		}
		if path != "" {
			add(parts, n, path)
		}
		for id := range members {
			if path == "" { // hosts without a partition go by their own id
				if n = ring.SlotOf(id, slots); !wanted(n) {
					continue
				}
			}
			add(hosts, n, id)
		}
	}
	return hosts, parts
}

// members lists the hosts of a partition that are on record.
func (v *view) members(path string) []string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return slices.Collect(maps.Keys(v.byPart[path]))
}

// settingArmed is the switch behind `holdfast ha arm|disarm`.
const settingArmed = "ha.armed"

// owner returns who holds the slot, with the slot key's revision.
func (v *view) slotOwner(slot int) (slotValue, int64, bool) {
	s, ok := get(v, v.slots, slot)
	return s.Val, s.Rev, ok
}

func (v *view) worker(id string) (v1.Worker, bool) {
	w, ok := get(v, v.workers, id)
	return w.Val, ok
}

// slotsOf are those of the slots that a worker holds, under any boot, that are wanted.
func (v *view) slotsOf(worker string, wanted func(slot int) bool) map[int]versioned[slotValue] {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := map[int]versioned[slotValue]{}
	for n, s := range v.slots {
		if s.Val.Worker == worker && wanted(n) {
			out[n] = s
		}
	}
	return out
}

// cold reports whether nobody owns anything.
func (v *view) cold() bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.slots) == 0
}

// othersStarting: some other worker will take slots as soon as it has read the records.
func (v *view) othersStarting(self string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for id, x := range v.workers {
		if id != self && x.Val.State == stateStarting {
			return true
		}
	}
	return false
}
