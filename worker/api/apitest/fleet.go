// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Start is the time of the first thing that happened in a fresh Fleet.
var Start = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// Fleet is an api.Backend. Lock Mu to change it under a running server.
type Fleet struct {
	Raised    int64 // how often the generation was raised
	Mu        sync.Mutex
	Revision  int64
	HostMap   map[string]v1.Host
	PartMap   map[string]v1.Partition
	WorkerL   []v1.Worker
	IncL      []v1.Incident
	PoolL     []v1.Pool
	VolumeL   []v1.Volume
	TemplateL []v1.Template
	InstanceL []v1.Instance
	CommandL  []v1.Command
	EventL    []v1.Event
	Exports   map[string]v1.IncidentExport // by incident; others are made of what is here
	Kept      int64                        // events up to this revision are not
	AreaL     []v1.Area
	BudgetMap map[string]v1.Budget
	Set       map[string]v1.Setting      // by scope and name
	SecretMap map[string]v1.SecretStatus // by host/device
	Profile   map[string]string          // of all scopes
	Calls     []string                   // who and what of each write
	Elsewhere map[string]string          // hosts owned by another worker: its base URL, "" for nobody
	APIs      map[string]string          // base URLs of the APIs of workers other than the one that serves
	NotReady  error
	Warnings  []api.Warning

	hostLog []hostChange
	changed chan struct{} // closed and replaced at each change
}

var _ api.Backend = (*Fleet)(nil)

func missing(kind, name string) error {
	return v1.Problemf(v1.CodeNotFound, "%s %s: not found", kind, name).WithHint("which there are: holdfast get %ss", kind)
}

// note writes down a write; the caller holds Mu.
func (f *Fleet) note(who, format string, args ...any) {
	f.Calls = append(f.Calls, who+": "+fmt.Sprintf(format, args...))
}

// trial undoes what a call does if that is a dry run, and tells what it was; the caller
// holds Mu and runs the result before it lets go of it.
func (f *Fleet) trial(ctx context.Context) (end func()) {
	t := api.DryRun(ctx)
	if t == nil {
		return func() {}
	}
	raised, revision, calls := f.Raised, f.Revision, len(f.Calls)
	hosts, parts, budgets, set, secrets, profile := maps.Clone(f.HostMap), maps.Clone(f.PartMap), maps.Clone(f.BudgetMap), maps.Clone(f.Set), maps.Clone(f.SecretMap), maps.Clone(f.Profile)
	workers, commands := slices.Clone(f.WorkerL), slices.Clone(f.CommandL)
	pools, volumes, templates, instances := slices.Clone(f.PoolL), slices.Clone(f.VolumeL), slices.Clone(f.TemplateL), slices.Clone(f.InstanceL)
	return func() {
		for _, call := range f.Calls[calls:] {
			t.Would(call)
		}
		f.Raised, f.Revision, f.Calls = raised, revision, f.Calls[:calls]
		f.HostMap, f.PartMap, f.BudgetMap, f.Set, f.SecretMap, f.Profile = hosts, parts, budgets, set, secrets, profile
		f.WorkerL, f.CommandL, f.PoolL, f.VolumeL, f.TemplateL, f.InstanceL = workers, commands, pools, volumes, templates, instances
	}
}

// touch wakes watches; the caller holds Mu.
func (f *Fleet) touch() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Emit appends an event at the next revision, or at the last one with same set.
func (f *Fleet) Emit(e v1.Event, same bool) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	if !same {
		f.Revision++
	}
	e.Revision = f.Revision
	if e.ID == "" {
		e.ID = fmt.Sprintf("e-%d", len(f.EventL)+1)
	}
	f.EventL = append(f.EventL, e)
	f.touch()
}

// Change replaces a host and wakes watches.
func (f *Fleet) Change(id string, change func(*v1.Host)) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	h := f.HostMap[id]
	change(&h)
	f.HostMap[id] = h
	f.Revision++
	f.hostLog = append(f.hostLog, hostChange{f.Revision, id})
	f.touch()
}

// hostChange says that a host was changed or is gone.
type hostChange struct {
	revision int64
	id       string
}

// Noted is a copy of Calls.
func (f *Fleet) Noted() []string {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	return slices.Clone(f.Calls)
}

func (f *Fleet) Hosts(_ context.Context, q api.HostFilter) ([]v1.Host, error) {
	match, err := q.Matcher()
	if err != nil {
		return nil, err
	}
	f.Mu.Lock()
	defer f.Mu.Unlock()
	var out []v1.Host
	for _, h := range f.HostMap {
		if match(h) {
			out = append(out, h)
		}
	}
	return out, nil
}

func (f *Fleet) Host(_ context.Context, id string) (v1.Host, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	h, ok := f.HostMap[id]
	if !ok {
		return h, missing("host", id)
	}
	return h, nil
}

// check compares a revision as the store would; now 0 means that it is not there.
func check(what string, now, want int64) error {
	if want >= 0 && want != now {
		p := v1.Problemf(v1.CodeConflict, "%s: it is at revision %d, not %d", what, now, want).WithHint("read it again and repeat the change")
		p.Want, p.Have = want, now
		return p
	}
	return nil
}

func (f *Fleet) PutHost(ctx context.Context, who string, spec v1.HostSpec, rev int64) (v1.Host, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	if spec.Partition == "" {
		return v1.Host{}, v1.BadField("partition", "empty, allowed is zone, zone/pod or zone/pod/cluster")
	}
	h := f.HostMap[spec.ID]
	if err := check("host "+spec.ID, h.Revision, rev); err != nil {
		return h, err
	}
	h.Spec = spec
	f.Revision++
	if api.DryRun(ctx) == nil {
		h.Revision = f.Revision
	}
	if h.Status.State == "" {
		h.Status = v1.HostStatus{State: "INITIALIZING", Power: "UNKNOWN"}
	}
	f.HostMap[spec.ID] = h
	f.note(who, "put host %s", spec.ID)
	f.touch()
	return h, nil
}

func (f *Fleet) DeleteHost(ctx context.Context, who, id string, rev int64) error {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	h, ok := f.HostMap[id]
	if !ok {
		return missing("host", id)
	}
	if err := check("host "+id, h.Revision, rev); err != nil {
		return err
	}
	delete(f.HostMap, id)
	f.Revision++
	f.hostLog = append(f.hostLog, hostChange{f.Revision, id})
	f.note(who, "delete host %s", id)
	f.touch()
	return nil
}

func (f *Fleet) ExplainHost(ctx context.Context, id string) (v1.Explanation, error) {
	h, err := f.Host(ctx, id)
	if err != nil {
		return v1.Explanation{}, err
	}
	x := v1.Explanation{Subject: "host " + id, State: h.Status.State, Since: h.Status.Since, Why: []string{h.Status.Reason}, Holds: h.Status.Holds}
	if h.Status.Incident != "" {
		x.Guards = guards
		x.Next = []string{"the next activity check is due in 40s"}
		x.WouldChange = []string{"two pings in a row: AVAILABLE", "arming cluster z1/p1/c1: a check at once"}
		x.OperatorMay = []string{"holdfast ha arm cluster/z1/p1/c1", "holdfast power status " + id}
		x.Story = ledger
	}
	return x, nil
}

func (f *Fleet) SetHost(ctx context.Context, who, id, what string, s v1.Switch) (v1.Host, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	h, ok := f.HostMap[id]
	if !ok {
		return h, missing("host", id)
	}
	switch what {
	case "maintenance":
		h.Spec.Maintenance = s.On
	case "ha":
		h.Spec.HADisabled = !s.On
	case "enabled":
		h.Spec.Disabled = !s.On
	}
	h.Spec.Why = s.Reason
	h.Status.State = "INITIALIZING"
	if h.Spec.Maintenance || h.Spec.HADisabled || h.Spec.Disabled {
		h.Status.State = "INELIGIBLE"
	}
	f.Revision++
	h.Revision = f.Revision
	f.HostMap[id] = h
	f.note(who, "set host %s %s %v %q", id, what, s.On, s.Reason)
	f.touch()
	return h, nil
}

func (f *Fleet) Events(_ context.Context, q api.EventFilter) ([]v1.Event, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	var out []v1.Event
	for _, e := range f.EventL {
		if q.Match(e) {
			out = append(out, e)
		}
	}
	return out, nil
}

// EventsKept keeps all events from Kept on.
func (f *Fleet) EventsKept(_ context.Context, after int64) error {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	if after < f.Kept {
		return v1.Problemf(v1.CodeCompacted, "events after revision %d: those up to %d are no longer kept", after, f.Kept)
	}
	return nil
}

func (f *Fleet) WatchEvents(ctx context.Context, q api.EventFilter, fn func(v1.Event) error) error {
	for n := 0; ; {
		f.Mu.Lock()
		todo, wake := slices.Clone(f.EventL[n:]), f.changed
		f.Mu.Unlock()
		n += len(todo)
		for _, e := range todo {
			if q.Match(e) {
				if err := fn(e); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
	}
}

func (f *Fleet) WatchHosts(ctx context.Context, q api.HostFilter, w api.HostWatch) error {
	match, err := q.Matcher()
	if err != nil {
		return err
	}
	seen := map[string]string{}
	if w.After > 0 {
		f.Mu.Lock()
		for id, h := range f.HostMap {
			if match(h) {
				seen[id] = fmt.Sprint(h)
			}
		}
		for _, c := range f.hostLog {
			if c.revision > w.After {
				seen[c.id] = "older"
			}
		}
		f.Mu.Unlock()
	}
	for {
		f.Mu.Lock()
		now := map[string]v1.Host{}
		for id, h := range f.HostMap {
			if match(h) {
				now[id] = h
			}
		}
		wake, upTo := f.changed, f.Revision
		f.Mu.Unlock()
		for id := range seen {
			if _, ok := now[id]; !ok {
				delete(seen, id)
				if err := w.Host(v1.Host{Spec: v1.HostSpec{ID: id}, Deleted: true}); err != nil {
					return err
				}
			}
		}
		for _, h := range slices.SortedFunc(mapValues(now), func(a, b v1.Host) int { return cmp.Compare(a.Spec.ID, b.Spec.ID) }) {
			text := fmt.Sprint(h)
			if seen[h.Spec.ID] == text {
				continue
			}
			seen[h.Spec.ID] = text
			if err := w.Host(h); err != nil {
				return err
			}
		}
		if err := w.UpTo(upTo); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
	}
}

func mapValues(m map[string]v1.Host) func(func(v1.Host) bool) {
	return func(yield func(v1.Host) bool) {
		for _, h := range m {
			if !yield(h) {
				return
			}
		}
	}
}

// effective resolves a setting at a scope: there, else global, else the default.
func (f *Fleet) effective(scope, name string) (v1.Setting, bool) {
	s, ok := f.Set["default "+name]
	for _, at := range []string{"global", scope} {
		if x, set := f.Set[at+" "+name]; set {
			s = x
		}
	}
	s.Scope = scope
	return s, ok
}

func (f *Fleet) Settings(_ context.Context, scope string) ([]v1.Setting, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	var out []v1.Setting
	for _, name := range settingNames {
		s, _ := f.effective(scope, name)
		out = append(out, s)
	}
	return out, nil
}

func (f *Fleet) PutSetting(ctx context.Context, who, scope, name, value, reason string, expires time.Time, rev int64) (v1.Setting, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	s, ok := f.Set["default "+name]
	if !ok {
		return s, missing("setting", name)
	}
	if name == "ha.policy" && !slices.Contains(strings.Split(s.Allowed, ", "), value) {
		return s, v1.BadField("value", "ha.policy %q, allowed are %s", value, s.Allowed)
	}
	s.Scope, s.Value, s.Origin, s.By, s.Reason = scope, value, scope, who, reason
	if !expires.IsZero() {
		s.Expires = Start.Add(time.Hour) // not the real one: answers stay the same
	}
	if err := check("setting "+name, f.Set[scope+" "+name].Revision, rev); err != nil {
		return s, err
	}
	f.Revision++
	s.Revision = f.Revision
	f.Set[scope+" "+name] = s
	f.note(who, "put setting %s %s=%s %q", scope, name, value, reason)
	return s, nil
}

func (f *Fleet) DeleteSetting(ctx context.Context, who, scope, name, reason string, rev int64) (v1.Setting, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	if _, ok := f.effective(scope, name); !ok {
		return v1.Setting{}, missing("setting", name)
	}
	if err := check("setting "+name, f.Set[scope+" "+name].Revision, rev); err != nil {
		return v1.Setting{}, err
	}
	delete(f.Set, scope+" "+name)
	f.note(who, "delete setting %s %s %q", scope, name, reason)
	s, _ := f.effective(scope, name)
	return s, nil
}

func (f *Fleet) Arm(ctx context.Context, who, scope string, s v1.Switch) (v1.Setting, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	out := v1.Setting{Name: "ha.armed", Scope: scope, Value: fmt.Sprint(s.On), Origin: scope, By: who, Reason: s.Reason}
	if s.For != "" {
		out.Expires = Start.Add(2 * time.Hour)
	}
	f.note(who, "arm %s %v %q %q", scope, s.On, s.For, s.Reason)
	return out, nil
}

func (f *Fleet) Allocate(_ context.Context, partition string, needHA bool) ([]v1.Candidate, error) {
	out := []v1.Candidate{
		{Host: "h-1", Allowed: true, Rank: 1, Reason: "AVAILABLE, 2 instances"},
		{Host: "h-10", Allowed: !needHA, Rank: 2, Reason: "NONE: outside HA"},
		{Host: "h-3", Reason: "FENCED"},
	}
	if partition == "z9" {
		return nil, nil
	}
	return out, nil
}

func (f *Fleet) OwnerAPI(host string) (string, bool) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	url, elsewhere := f.Elsewhere[host]
	if _, ok := f.HostMap[host]; !ok {
		return "", false
	}
	return url, !elsewhere
}

func (f *Fleet) Health() []api.Warning {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	return slices.Clone(f.Warnings)
}

func (f *Fleet) Ready() error {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	return f.NotReady
}
