// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/provider"
	"github.com/holdfast-ha/holdfast/worker/provider/kvm"
)

// write commits operators' records together with the log entry that tells of them and the
// audit record of what changed. A dry run is told of both instead, if the commit would be
// accepted; its revision is that of the last record as it is.
func (b *backend) write(ctx context.Context, what string, g leases.Guard, x v1.Event, ops ...leases.Op) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	if t := api.DryRun(ctx); t != nil {
		rev, err := b.client.Check(ctx, g, append([]leases.Op{leases.Put(leases.EventKey(x.ID), x)}, ops...)...)
		if err == nil {
			t.Would(x.Message, b.w().changesOf(ops, nil)...)
		}
		return rev, etcdProblem(what, err)
	}
	rev, err := b.client.Commit(ctx, g, append(ops, leases.Put(leases.EventKey(x.ID), x), b.audited(x, ops))...)
	if err == nil {
		b.w().announced([]v1.Event{x})
	}
	return rev, etcdProblem(what, err)
}

func (b *backend) audit(typ, who, msg, reason string) v1.Event {
	x := v1.Event{ID: newEventID(), At: time.Now().UTC(), Type: typ, Severity: string(ha.Info), Worker: b.o.ID, Message: msg, Data: map[string]string{"by": who}}
	if reason != "" {
		x.Data["reason"] = reason
		x.Message += " (" + reason + ")"
	}
	return x
}

// at adds the caller's idea of the revision to a guard; -1 takes what is there now.
func at(key string, want, have int64) leases.Guard {
	if want < 0 {
		want = have
	}
	return leases.Unowned().At(key, want)
}

// PutHost implements api.Backend.
func (b *backend) PutHost(ctx context.Context, who string, spec v1.HostSpec, ifRev int64) (v1.Host, error) {
	spec.V = 1
	if spec.Provider == "" {
		spec.Provider = kvm.Kind
	}
	if err := b.w().validateHost(spec); err != nil {
		return v1.Host{}, err
	}
	had, _ := b.view.spec(spec.ID)
	key := leases.HostSpecKey(spec.ID)
	x := b.audit("host.declared", who, "host "+spec.ID+" was declared", "")
	x.Host, x.Partition = spec.ID, spec.Partition
	ops := append(b.secretsOf(spec.ID, had.Val.Power, spec.Power), leases.Put(key, spec))
	rev, err := b.write(ctx, "host "+spec.ID, at(key, ifRev, had.Rev), x, ops...)
	if err != nil {
		return v1.Host{}, err
	}
	return b.host(spec.ID, versioned[v1.HostSpec]{Rev: rev, Val: spec}), nil
}

// validateHost checks everything that a spec says before it is believed.
func (w *Worker) validateHost(s v1.HostSpec) error {
	var errs []error
	fail := func(field string, err error) {
		if err != nil {
			errs = append(errs, badField(field, fmt.Sprintf("%s: %v", field, err)))
		}
	}
	fail("id", leases.CheckID("host", s.ID))
	fail("partition", leases.CheckPath("partition", s.Partition))
	if n := strings.Count(s.Partition, "/"); n > 2 {
		fail("partition", fmt.Errorf("%q has %d levels, allowed are zone, zone/pod or zone/pod/cluster", s.Partition, n+1))
	}
	if w.providers[s.Provider] == nil {
		fail("provider", fmt.Errorf("%q, allowed are %s", s.Provider, strings.Join(w.providerKinds(), ", ")))
	} else {
		fail("provider", w.checkProvider(s))
	}
	for i, p := range s.Pools {
		fail(fmt.Sprintf("pools[%d]", i), leases.CheckID("pool", p))
	}
	for i, p := range s.Probes {
		if !strings.HasPrefix(p, "icmp://") && !strings.HasPrefix(p, "udp-echo://") {
			fail(fmt.Sprintf("probes[%d]", i), fmt.Errorf("%q, allowed are icmp://address and udp-echo://address:port, with #network where it is not the management network", p))
		}
		_, network := provider.Network(p)
		fail(fmt.Sprintf("probes[%d]", i), leases.CheckID("network", network))
	}
	seen := map[string]bool{}
	for i, d := range s.Power {
		field := fmt.Sprintf("power[%d]", i)
		fail(field+".name", leases.CheckID("device", d.Name))
		if seen[d.Name] {
			fail(field+".name", fmt.Errorf("%q is used twice", d.Name))
		}
		seen[d.Name] = true
	}
	errs = append(errs, w.checkDevices(s, w.view.profile(s.Partition, s.ID))...)
	return firstProblem(errs)
}

// checkProvider asks a host's provider whether it can work there.
func (w *Worker) checkProvider(s v1.HostSpec) error {
	p := w.providerOf(s.Provider)
	kinds := p.Describe().Partitions
	if n := strings.Count(s.Partition, "/"); n < len(provider.PartitionKinds) && !slices.Contains(kinds, provider.PartitionKinds[n]) {
		return fmt.Errorf("%q works on a %s, and %q is a %s", s.Provider, strings.Join(kinds, " or "), s.Partition, provider.PartitionKinds[n])
	}
	if c, ok := p.(provider.Checker); ok {
		return c.Check(provider.Facts{Host: s.ID, Partition: s.Partition, Labels: s.Labels, Program: w.view.effective(s.Partition, s.ID, time.Now()).String(settingProgram)})
	}
	return nil
}

// firstProblem joins problems into one that names the first field.
func firstProblem(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	var p *v1.Problem
	if len(errs) == 1 || !errors.As(errs[0], &p) {
		return errs[0]
	}
	all := *p
	for _, e := range errs[1:] {
		all.Detail += "; " + e.Error()
	}
	return &all
}

// DeleteHost implements api.Backend. A host that is not at rest is not forgotten: its
// record says what may still run there. What was is evidence: closed incidents and the log
// outlive it for as long as others do.
func (b *backend) DeleteHost(ctx context.Context, who, id string, ifRev int64) error {
	had, ok := b.view.spec(id)
	if !ok {
		return notFound("host", id)
	}
	if s := b.host(id, had).Status; s.Incident != "" {
		return refused(fmt.Sprintf("delete host %s: incident %s is open (%s)", id, s.Incident, s.State), "put it into maintenance or wait for the incident to end")
	}
	rec, _ := get(b.view, b.view.ha, id)
	if t := rec.Val.OrderTxn; t != nil && !t.Done {
		return refused(fmt.Sprintf("delete host %s: power order %s runs", id, t.ID), "wait for its end")
	}
	open, err := b.Commands(ctx, v1.CommandQuery{Open: true})
	if err != nil {
		return err
	}
	for _, c := range open {
		if c.Host == id || c.Target == id {
			return refused(fmt.Sprintf("delete host %s: command %s from %s is open about it (%s)", id, c.ID, c.Host, c.State), "holdfast command explain "+c.ID)
		}
	}
	x := b.audit(hostForgotten, who, "host "+id+" was removed from the record", "")
	x.Host, x.Partition = id, had.Val.Partition
	// Compared with the record that was looked at: what began since is not forgotten.
	_, err = b.write(ctx, "host "+id, at(leases.HostSpecKey(id), ifRev, had.Rev).At(leases.HostHAKey(id), rec.Rev), x, append(b.secretsOf(id, had.Val.Power, nil),
		leases.Delete(leases.HostSpecKey(id)), leases.Delete(leases.HostHAKey(id)), leases.Delete(leases.HostPowerKey(id)),
		leases.Delete(leases.OpsKey(id)), leases.Delete(leases.BudgetKey("host/"+id)), leases.Delete(leases.LinkKey(id)))...)
	return err
}

// SetHost implements api.Backend.
func (b *backend) SetHost(ctx context.Context, who, id, what string, s v1.Switch) (v1.Host, error) {
	had, ok := b.view.spec(id)
	if !ok {
		return v1.Host{}, notFound("host", id)
	}
	spec := had.Val
	var msg string
	switch what {
	case "maintenance":
		spec.Maintenance = s.On
		msg = "maintenance of host " + id + " is " + onOff(s.On)
	case "ha":
		spec.HADisabled = !s.On
		msg = "HA for host " + id + " is " + enabled(s.On)
	case "enabled":
		spec.Disabled = !s.On
		msg = "host " + id + " is " + enabled(s.On)
	default:
		return v1.Host{}, badField("what", fmt.Sprintf("%q, allowed are maintenance, ha, enabled", what))
	}
	spec.Why = s.Reason
	key := leases.HostSpecKey(id)
	x := b.audit("host."+what, who, msg, s.Reason)
	x.Host, x.Partition = id, spec.Partition
	rev, err := b.write(ctx, "host "+id, at(key, -1, had.Rev), x, leases.Put(key, spec))
	if err != nil {
		return v1.Host{}, err
	}
	return b.host(id, versioned[v1.HostSpec]{Rev: rev, Val: spec}), nil
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func enabled(on bool) string {
	if on {
		return "enabled"
	}
	return "disabled"
}

// PutPartition implements api.Backend.
func (b *backend) PutPartition(ctx context.Context, who string, spec v1.PartitionSpec, ifRev int64) (v1.Partition, error) {
	spec.V = 1
	if err := leases.CheckPath("partition", spec.Path); err != nil {
		return v1.Partition{}, badField("path", err.Error())
	}
	if n := strings.Count(spec.Path, "/"); n > 2 {
		return v1.Partition{}, badField("path", fmt.Sprintf("path: %q has %d levels, allowed are zone, zone/pod and zone/pod/cluster", spec.Path, n+1))
	}
	key := leases.PartitionSpecKey(spec.Path)
	had, _ := get(b.view, b.view.parts, spec.Path)
	x := b.audit("partition.declared", who, "partition "+spec.Path+" was declared", "")
	x.Partition = spec.Path
	rev, err := b.write(ctx, "partition "+spec.Path, at(key, ifRev, had.Rev), x, leases.Put(key, spec))
	return v1.Partition{Spec: spec, Revision: rev}, err
}

// SetPartition implements api.Backend.
func (b *backend) SetPartition(ctx context.Context, who, path, what string, s v1.Switch) (v1.Partition, error) {
	if _, err := b.Partition(ctx, path); err != nil {
		return v1.Partition{}, err
	}
	had, _ := get(b.view, b.view.parts, path)
	spec := had.Val
	spec.V, spec.Path, spec.Why = 1, path, s.Reason
	msg := "HA at " + path + " is " + enabled(s.On)
	switch what {
	case "ha":
		spec.HADisabled = !s.On
	case "enabled":
		spec.Disabled = !s.On
		msg = "partition " + path + " is " + enabled(s.On)
	default:
		return v1.Partition{}, badField("what", fmt.Sprintf("%q, allowed are ha, enabled", what))
	}
	key := leases.PartitionSpecKey(path)
	x := b.audit("partition."+what, who, msg, s.Reason)
	x.Partition = path
	if _, err := b.write(ctx, "partition "+path, at(key, -1, had.Rev), x, leases.Put(key, spec)); err != nil {
		return v1.Partition{}, err
	}
	p, err := b.Partition(ctx, path)
	p.Spec = spec
	return p, err
}

// scopePath splits a settings scope into the partition path and host it is about.
func (b *backend) scopePath(scope string) (path, host string, err error) {
	kind, rest, _ := strings.Cut(scope, "/")
	levels := map[string]int{"zone": 0, "pod": 1, "cluster": 2}
	switch n, ok := levels[kind]; {
	case scope == "global":
		return "", "", nil
	case kind == "host" && leases.CheckID("host", rest) == nil:
		spec, ok := b.view.spec(rest)
		if !ok {
			return "", "", notFound("host", rest)
		}
		return spec.Val.Partition, rest, nil
	case ok && strings.Count(rest, "/") == n && leases.CheckPath("partition", rest) == nil:
		return rest, "", nil
	}
	return "", "", badField("scope", fmt.Sprintf("scope: %q, allowed are global, zone/Z, pod/Z/P, cluster/Z/P/C, host/H", scope))
}

// Settings implements api.Backend.
func (b *backend) Settings(_ context.Context, scope string) ([]v1.Setting, error) {
	path, host, err := b.scopePath(scope)
	if err != nil {
		return nil, err
	}
	eff := b.view.effective(path, host, time.Now())
	var out []v1.Setting
	for _, d := range settings.All {
		out = append(out, b.setting(scope, d, eff))
	}
	return out, nil
}

func (b *backend) setting(scope string, d settings.Def, eff effective) v1.Setting {
	value, origin := eff.Value(d.Name)
	s := v1.Setting{Name: d.Name, Scope: scope, Value: value, Origin: origin, Default: d.Default, Allowed: d.Allowed(), Effect: d.Effect, Doc: d.Doc}
	b.view.mu.RLock()
	r, ok := b.view.settings[scope][d.Name]
	b.view.mu.RUnlock()
	if ok {
		s.By, s.At, s.Reason, s.Expires, s.Revision = r.Val.By, r.Val.At, r.Val.Reason, r.Val.Expires, r.Rev
	}
	return s
}

// PutSetting implements api.Backend.
func (b *backend) PutSetting(ctx context.Context, who, scope, name, value, reason string, expires time.Time, ifRev int64) (v1.Setting, error) {
	path, host, err := b.scopePath(scope)
	if err != nil {
		return v1.Setting{}, err
	}
	def, ok := settings.Lookup(name)
	if !ok {
		return v1.Setting{}, badField("name", fmt.Sprintf("name: %q is no setting%s", name, didYouMean(name)))
	}
	if err := settings.Validate(scope, name, value, b.view.changedLayers(path, host, scope, name, value)); err != nil {
		return v1.Setting{}, badField("value", err.Error())
	}
	canon, err := def.Parse(value)
	if err != nil {
		return v1.Setting{}, badField("value", err.Error())
	}
	key := leases.SettingKey(scope, name)
	rec := v1.SettingRecord{V: 1, Value: canon, By: who, At: time.Now().UTC(), Reason: reason, Expires: expires}
	msg := fmt.Sprintf("%s is %s at %s", name, cmp.Or(canon, `""`), scope)
	if !expires.IsZero() {
		msg += " until " + expires.UTC().Format(time.RFC3339)
	}
	x := b.audit("setting.set", who, msg, reason)
	x.Host, x.Partition = host, path
	rev, err := b.write(ctx, "setting "+name, b.settingAt(key, ifRev), x, leases.Put(key, rec))
	if err != nil {
		return v1.Setting{}, err
	}
	return v1.Setting{Name: name, Scope: scope, Value: canon, Origin: scope, Default: def.Default, Allowed: def.Allowed(), Effect: def.Effect, Doc: def.Doc,
		By: who, At: rec.At, Reason: reason, Expires: expires, Revision: rev}, nil
}

func didYouMean(name string) string {
	var near []string
	for _, d := range settings.All {
		if strings.Contains(d.Name, name) || strings.HasSuffix(name, d.Name[strings.LastIndexByte(d.Name, '.')+1:]) {
			near = append(near, d.Name)
		}
	}
	if len(near) == 0 {
		return ""
	}
	slices.Sort(near)
	return ", did you mean " + strings.Join(near[:min(3, len(near))], " or ") + "?"
}

// DeleteSetting implements api.Backend.
func (b *backend) DeleteSetting(ctx context.Context, who, scope, name, reason string, ifRev int64) (v1.Setting, error) {
	path, host, err := b.scopePath(scope)
	if err != nil {
		return v1.Setting{}, err
	}
	def, ok := settings.Lookup(name)
	if !ok {
		return v1.Setting{}, badField("name", fmt.Sprintf("name: %q is no setting%s", name, didYouMean(name)))
	}
	x := b.audit("setting.unset", who, fmt.Sprintf("%s is no longer set at %s", name, scope), reason)
	x.Host, x.Partition = host, path
	key := leases.SettingKey(scope, name)
	if _, err := b.write(ctx, "setting "+name, b.settingAt(key, ifRev), x, leases.Delete(key)); err != nil {
		return v1.Setting{}, err
	}
	s := v1.Setting{Name: name, Scope: scope, Default: def.Default, Allowed: def.Allowed(), Effect: def.Effect, Doc: def.Doc}
	eff := settings.Resolve(b.view.changedLayers(path, host, scope, name, ""))
	if f, ok := b.view.profile(path, host).Figures()[name]; ok {
		eff = eff.WithFigure(name, f.Value, f.Origin)
	}
	s.Value, s.Origin = eff.Value(name)
	return s, nil
}

// settingAt compares a setting only where its caller says what it must be: two that set the
// same one without looking do not disturb each other.
func (b *backend) settingAt(key string, ifRev int64) leases.Guard {
	if ifRev < 0 {
		return leases.Unowned()
	}
	return leases.Unowned().At(key, ifRev)
}

// Arm implements api.Backend: `ha.armed` is a setting with an expiry.
func (b *backend) Arm(ctx context.Context, who, scope string, s v1.Switch) (v1.Setting, error) {
	if s.On {
		return b.DeleteSetting(ctx, who, scope, settingArmed, s.Reason, -1)
	}
	var until time.Time
	if s.For != "" {
		d, err := time.ParseDuration(s.For)
		if err != nil || d <= 0 || d > 30*24*time.Hour {
			return v1.Setting{}, badField("for", fmt.Sprintf("for: %q, allowed are durations up to 720h such as 2h or 30m", s.For))
		}
		until = time.Now().UTC().Add(d)
	}
	return b.PutSetting(ctx, who, scope, settingArmed, "false", s.Reason, until, -1)
}
