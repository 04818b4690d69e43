// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// backend is the worker as operators see it.
type backend Worker

var _ api.Backend = (*backend)(nil)

func notFound(what, id string) error {
	return v1.Problemf(v1.CodeNotFound, "%s %q is not on record", what, id)
}

func badField(field, detail string) error {
	return (&v1.Problem{Code: v1.CodeBadRequest, Field: field, Detail: detail}).Complete()
}

func refused(detail, hint string) error {
	return (&v1.Problem{Code: v1.CodeRefused, Detail: detail, Hint: hint}).Complete()
}

// etcdProblem turns a failed write into what an operator should know of it.
func etcdProblem(what string, err error) error {
	var p *v1.Problem
	var moved *leases.ConflictError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p):
		return err
	case errors.As(err, &moved):
		p := v1.Problemf(v1.CodeConflict, "%s was changed by somebody else in the meantime", what).WithHint("read it again and repeat the change")
		p.Want, p.Have = moved.Want, moved.Have
		return p
	case errors.Is(err, leases.ErrConflict):
		return v1.Problemf(v1.CodeConflict, "%s was changed by somebody else in the meantime", what).WithHint("read it again and repeat the change")
	case errors.Is(err, leases.ErrUnknownOutcome):
		return v1.Problemf(v1.CodeUnknownOutcome, "%s: %v", what, err).WithHint("etcd did not say whether it was done: look before you repeat it")
	}
	return v1.Problemf(v1.CodeUnavailable, "%s: %v", what, err).WithHint("nothing was done; try again")
}

func (b *backend) w() *Worker { return (*Worker)(b) }

// Hosts implements api.Backend.
func (b *backend) Hosts(_ context.Context, f api.HostFilter) ([]v1.Host, error) {
	match, err := f.Matcher()
	if err != nil {
		return nil, err
	}
	var out []v1.Host
	for id, spec := range b.view.hosts() {
		if h := b.host(id, spec); match(h) {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b v1.Host) int { return cmp.Compare(a.Spec.ID, b.Spec.ID) })
	return out, nil
}

// within reports whether path is at or below scope.
func within(path, scope string) bool {
	return scope == "" || path == scope || strings.HasPrefix(path, scope+"/")
}

// Host implements api.Backend.
func (b *backend) Host(_ context.Context, id string) (v1.Host, error) {
	spec, ok := b.view.spec(id)
	if !ok {
		return v1.Host{}, notFound("host", id)
	}
	return b.host(id, spec), nil
}

// host puts together what is known of one host: from its owner when it is here, else
// from the mirror.
func (b *backend) host(id string, spec versioned[v1.HostSpec]) v1.Host {
	w := b.w()
	h := v1.Host{Spec: spec.Val, Revision: spec.Rev}
	s := &h.Status
	s.Linked = v1.LinkedUnknown
	s.Slot = w.slotOf(spec.Val.Partition, id)
	if o, rev, ok := w.view.slotOwner(s.Slot); ok {
		s.Owner, s.Epoch = o.Worker, leases.Epoch{Generation: w.view.generation(), Revision: rev}.String()
	}
	rec, known := get(w.view, w.view.ha, id)
	p := w.shown.get(id)
	if p != nil {
		rec.Val, known = *p.record, true
		s.Linked, s.LastPing, s.Boot, s.DiskHung = v1.LinkedNo, p.lastPing, p.boot, p.report.GetStateDiskHung()
		if p.linked {
			s.Linked = v1.LinkedYes
		}
	}
	if !known {
		s.State, s.Power, s.Reason = string(ha.None), "UNKNOWN", "no worker has looked at it yet"
		return h
	}
	r := rec.Val
	s.State, s.Since, s.Reason = string(r.State), r.Since, r.Reason
	s.Power, s.PowerSince = r.Power.String(), r.PowerSince
	s.Instances, s.Local, s.Contradicted = r.Instances, r.Local, r.Contradicted
	if r.SeenDisks {
		s.Witnessed = append(s.Witnessed, "disks")
	}
	if r.SeenProbe {
		s.Witnessed = append(s.Witnessed, "network")
	}
	if s.Boot == "" {
		s.Boot = r.Boot.ID
	}
	if i := r.Incident; i != nil && i.Ended.IsZero() {
		s.Incident = i.ID
	}
	s.Holds = holdsOf(r.Holds())
	if why, since := w.frozen(id); p != nil && why != "" {
		s.Holds = append(s.Holds, v1.Hold{By: "etcd", Reason: why, Clears: wentBackClears, Since: since})
	}
	s.Proof = proofOf(r.Proof)
	s.Devices = b.deviceStatus(id, spec.Val)
	return h
}

func holdsOf(in []ha.Hold) (out []v1.Hold) {
	for _, h := range in {
		out = append(out, v1.Hold(h))
	}
	return out
}

// Partitions implements api.Backend.
func (b *backend) Partitions(ctx context.Context) ([]v1.Partition, error) {
	paths := map[string]bool{}
	b.view.mu.RLock()
	for p := range b.view.parts {
		paths[p] = true
	}
	for _, s := range b.view.specs {
		for _, p := range settings.Prefixes(s.Val.Partition) {
			paths[p] = true
		}
	}
	b.view.mu.RUnlock()
	out := make([]v1.Partition, 0, len(paths))
	for p := range paths {
		x, err := b.Partition(ctx, p)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b v1.Partition) int { return cmp.Compare(a.Spec.Path, b.Spec.Path) })
	return out, nil
}

// Partition implements api.Backend.
func (b *backend) Partition(_ context.Context, path string) (v1.Partition, error) {
	if leases.CheckPath("partition", path) != nil {
		return v1.Partition{}, notFound("partition", path)
	}
	w := b.w()
	spec, declared := get(w.view, w.view.parts, path)
	x := v1.Partition{Spec: spec.Val, Revision: spec.Rev, States: map[string]int{}}
	x.Spec.Path = path
	members := false // hosts directly in it: it has an HA state of its own
	for id, s := range w.view.hosts() {
		if !within(s.Val.Partition, path) {
			continue
		}
		members = members || s.Val.Partition == path
		x.Hosts++
		x.States[b.host(id, s).Status.State]++
	}
	if !declared && x.Hosts == 0 {
		return x, notFound("partition", path)
	}
	now := time.Now()
	if levels := guard.Levels(path); len(levels) > 0 {
		own := b.budget(levels[len(levels)-1], now)
		x.Budget = &own
	}
	x.Disarmed = w.view.disarmed(path, "", now)
	switch r, ok := w.partitionState(path); {
	case members && ok:
		x.State, x.Since, x.Reason = string(r.State), r.Since, r.Reason
	case len(w.view.disabled(path)) > 0:
		x.State, x.Reason = string(ha.PartitionNone), strings.Join(w.view.disabled(path), "; ")
	case members:
		x.State, x.Reason = string(ha.PartitionInactive), "not assessed yet"
	default:
		x.State, x.Reason = "", "holds partitions, not hosts"
	}
	if o, _, ok := w.view.slotOwner(w.slotOf(path, "")); ok && members {
		x.Owner = o.Worker
	}
	return x, nil
}

// Allocate implements api.Backend.
func (b *backend) Allocate(_ context.Context, partition string, needHA bool) ([]v1.Candidate, error) {
	var in []ha.Candidate
	for id, spec := range b.view.hosts() {
		if !within(spec.Val.Partition, partition) {
			continue
		}
		rec, _ := get(b.view, b.view.ha, id)
		if rec.Val.State == "" {
			rec.Val.State = ha.None
		}
		in = append(in, ha.Candidate{
			Host: id, State: rec.Val.State, Partition: rec.Val.Partition, Health: rec.Val.Health,
			Admin: ha.Admin{Maintenance: spec.Val.Maintenance, Excluded: spec.Val.HADisabled, Disabled: spec.Val.Disabled},
		})
	}
	out := []v1.Candidate{}
	for _, r := range ha.Rank(in, needHA) {
		out = append(out, v1.Candidate{Host: r.Host, Allowed: r.Fits, Rank: r.Rank, Reason: r.Reason})
	}
	return out, nil
}

// OwnerAPI implements api.Backend.
func (b *backend) OwnerAPI(host string) (string, bool) {
	w := b.w()
	if o, _ := w.owned(host); o != nil {
		return "", true
	}
	spec, ok := w.view.spec(host)
	if !ok {
		return "", true // answered here: not found
	}
	s, _, held := w.view.slotOwner(w.slotOf(spec.Val.Partition, host))
	if m, live := w.view.worker(s.Worker); held && live && s.Worker != w.o.ID {
		return w.wire.apiURL(m.API), false
	}
	return "", false
}

// Health implements api.Backend.
func (b *backend) Health() []api.Warning { return b.health.list() }

// Ready implements api.Backend.
func (b *backend) Ready() error {
	w := b.w()
	select {
	case <-w.mirror.Synced():
	default:
		return errors.New("not synced with etcd yet")
	}
	w.mu.Lock()
	s := w.session
	w.mu.Unlock()
	if s == nil || !s.Valid(0) {
		return errors.New("no valid lease")
	}
	return nil
}
