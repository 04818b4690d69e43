// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

// powerOf is the power record of a host: its owner's where it is here, with the latest
// readings, else the one in etcd.
func (b *backend) powerOf(id string) powerRecord {
	w := b.w()
	p := w.shown.get(id)
	if p != nil {
		return p.power
	}
	return w.view.powerOf(id)
}

// deviceStatus is the last that is known of each device of a host.
func (b *backend) deviceStatus(id string, spec v1.HostSpec) (out []v1.DeviceStatus) {
	rec := b.powerOf(id)
	for _, d := range b.w().devices(spec, b.view.profile(spec.Partition, id)) {
		out = append(out, deviceStatusOf(d, rec))
	}
	return out
}

func deviceStatusOf(d device, rec powerRecord) v1.DeviceStatus {
	t := rec.Devices[d.Name]
	read, _ := rec.Machine.Device(d.Name)
	s := v1.DeviceStatus{
		Name: d.Name, Driver: d.Driver, State: read.State.String(), Read: read.Last.At, Error: read.Detail,
		Tested: t.Tested, TestOK: t.TestOK, TestErr: t.TestErr, Level: d.Level, Proves: d.proves.String(),
	}
	if d.human {
		s.State = "" // nobody reads it
	}
	if !t.Tested.IsZero() && t.Depth > depthNone {
		n := int(t.Depth)
		s.Depth = &n
	}
	return s
}

// ExplainPower implements api.Backend.
func (b *backend) ExplainPower(_ context.Context, id string) (v1.PowerExplanation, error) {
	spec, ok := b.view.spec(id)
	if !ok {
		return v1.PowerExplanation{}, notFound("host", id)
	}
	now := time.Now().UTC()
	eff, profile := b.view.resolved(spec.Val.Partition, id, now)
	devices := b.w().devices(spec.Val, profile)
	// An owner that does not run answers with its own words: it only lends its methods.
	o := &owner{w: b.w(), host: id, spec: spec, eff: eff, devices: devices, pow: b.powerOf(id), policy: policyOf(eff, devices, profile)}
	rec, _ := get(b.view, b.view.ha, id)
	o.rec = rec.Val
	m := o.pow.Machine
	x := v1.PowerExplanation{Host: id, State: m.State.String(), Since: m.Since, Cause: string(m.Last.Cause), Why: m.Last.Why, Least: o.policy.ProofMin.String()}
	for _, lv := range o.policy.Ladder {
		l := v1.PowerLevel{Level: lv.N, Mode: "any", State: power.Unknown.String()}
		switch {
		case lv.Human:
			l.Mode, l.State = "human", ""
		case lv.All:
			l.Mode = "all"
		}
		if lv.Deadline > 0 {
			l.Deadline = lv.Deadline.String()
		}
		for _, s := range m.Levels {
			if s.Level == lv.N && !lv.Human {
				l.State = s.State.String()
			}
		}
		if !lv.Human {
			l.Proves, l.Least = lv.Reaches().String(), lv.Min.String()
			l.Tested, l.Why = o.levelTested(lv, now)
		}
		contradicted := slices.ContainsFunc(lv.Devices, func(d string) bool { return slices.Contains(o.rec.Contradicted, d) })
		switch {
		case lv.Human:
			x.Says = append(x.Says, fmt.Sprintf("level %d: a human; the incident is held until somebody makes sure that the host is off and says so: holdfast host confirm-off %s", lv.N, id))
		case contradicted:
			l.Why = "it read OFF while the host lived: it is passed over until somebody clears that"
			x.Says = append(x.Says, fmt.Sprintf("level %d (%s): passed over, it is contradicted", lv.N, strings.Join(lv.Devices, ", ")))
		case lv.Reaches() < lv.Min:
			l.Why = fmt.Sprintf("proves no more than %s, and %s is asked for", lv.Reaches(), lv.Min)
			x.Says = append(x.Says, fmt.Sprintf("level %d (%s): switched off, but %s: the next level is tried", lv.N, strings.Join(lv.Devices, ", "), l.Why))
		default:
			how := "hard off, then OFF read " + fmt.Sprint(o.policy.Fence.SettleReads) + " times over " + o.policy.Fence.SettleWindow.String()
			if len(lv.Devices) > 1 {
				how += ", from " + map[bool]string{true: "all of them", false: "the first that answers"}[lv.All]
			}
			x.Says = append(x.Says, fmt.Sprintf("level %d (%s): %s; proves %s", lv.N, strings.Join(lv.Devices, ", "), how, lv.Reaches()))
			if !l.Tested {
				x.Says = append(x.Says, fmt.Sprintf("level %d does not make the host fit for HA: %s", lv.N, l.Why))
			}
		}
		for _, d := range devices {
			if d.Level == lv.N {
				l.Devices = append(l.Devices, o.explainDevice(d, now))
			}
		}
		x.Levels = append(x.Levels, l)
	}
	if ok, why := o.powerTested(); !ok {
		x.Says = append(x.Says, "not fit for HA: "+why)
	}
	for _, def := range settings.All {
		if strings.HasPrefix(def.Name, "power.") {
			x.Settings = append(x.Settings, b.setting("host/"+id, def, eff))
		}
	}
	return x, nil
}

func (o *owner) explainDevice(d device, now time.Time) v1.PowerDevice {
	out := v1.PowerDevice{DeviceStatus: deviceStatusOf(d, o.pow), Address: d.Address}
	pin := declaredIdentity(d)
	if pin == (power.Identity{}) {
		pin = o.pinned(d)
	}
	out.Identity = v1.Identity{SystemUUID: pin.SystemUUID, Serial: pin.Serial, Fingerprint: pin.Fingerprint}
	if read, ok := o.pow.Machine.Device(d.Name); ok {
		out.Fails = read.Fails
		out.Next = o.pow.Machine.Due(d.Name, now, o.readCadence(), o.readLimits())
	}
	values := map[string]string{"driver": d.Driver, "address": d.Address, "user": d.User, "secret": d.Secret, "level": fmt.Sprint(d.Level), "assurance": d.proves.String()}
	for name, v := range d.Params {
		values["param."+name] = v
	}
	for _, name := range slices.Sorted(maps.Keys(d.origins)) {
		out.Fields = append(out.Fields, v1.ProfileField{Name: name, Value: values[name], Origin: d.origins[name]})
	}
	return out
}

// PowerProfile implements api.Backend.
func (b *backend) PowerProfile(_ context.Context, scope string) (v1.PowerProfile, error) {
	path, host, err := b.scopePath(scope)
	if err != nil {
		return v1.PowerProfile{}, err
	}
	had, _ := get(b.view, b.view.profiles, scope)
	p := b.profileOf(scope, b.view.profile(path, host), had.Val)
	p.Hosts, p.Revision = len(b.hostsBelow(scope)), had.Rev
	return p, nil
}

func (b *backend) profileOf(scope string, p power.Profile, own v1.ProfileRecord) v1.PowerProfile {
	out := v1.PowerProfile{Scope: scope, Fields: []v1.ProfileField{}, By: own.By, At: own.At, Reason: own.Reason}
	for _, name := range p.Names() {
		v, _ := p.Get(name)
		out.Fields = append(out.Fields, v1.ProfileField{Name: name, Value: v.Value, Origin: v.Origin})
	}
	return out
}

// hostsBelow are the hosts that a scope reaches, in order.
func (b *backend) hostsBelow(scope string) (out []string) {
	for id, s := range b.view.hosts() {
		if slices.Contains(settings.ScopesOf(s.Val.Partition, id), scope) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

const maxTold = 10 // hosts that are named in one error

// ChangePowerProfile implements api.Backend. What is wrong with a field is refused, and
// what would leave a host below with devices that cannot work, for a reason that was not
// there before.
func (b *backend) ChangePowerProfile(ctx context.Context, who, scope string, c v1.ProfileChange, ifRev int64) (v1.PowerProfile, error) {
	path, host, err := b.scopePath(scope)
	if err != nil {
		return v1.PowerProfile{}, err
	}
	if len(c.Set)+len(c.Unset) == 0 {
		return v1.PowerProfile{}, badField("set", "set: empty and so is unset, at least one field is needed")
	}
	had, _ := get(b.view, b.view.profiles, scope)
	next := v1.ProfileRecord{V: 1, Fields: maps.Clone(had.Val.Fields), By: who, At: time.Now().UTC(), Reason: c.Reason}
	if next.Fields == nil {
		next.Fields = map[string]string{}
	}
	var said []string
	for _, name := range c.Unset {
		if err := power.CheckProfileName(name); err != nil {
			return v1.PowerProfile{}, badField("unset", err.Error())
		}
		if _, both := c.Set[name]; both {
			return v1.PowerProfile{}, badField("unset", fmt.Sprintf("field %s: set and taken back at once", name))
		}
		delete(next.Fields, name)
		said = append(said, name+" taken back")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Set)) {
		value := c.Set[name]
		if err := power.CheckProfileField(name, value); err != nil {
			return v1.PowerProfile{}, badField(name, err.Error())
		}
		if strings.HasSuffix(name, ".driver") {
			if _, err := b.drivers.Driver(value); err != nil {
				return v1.PowerProfile{}, badField(name, fmt.Sprintf("field %s: value %q: allowed are %s", name, value, strings.Join(b.drivers.Kinds(), ", ")))
			}
		}
		if strings.HasSuffix(name, ".secret") && !strings.HasPrefix(value, "env:") && !strings.HasPrefix(value, "file:") && value != wpower.SealedRef {
			return v1.PowerProfile{}, badField(name, fmt.Sprintf("field %s: allowed are sealed, env:NAME and file:PATH, never the secret itself", name))
		}
		next.Fields[name] = value
		said = append(said, name+"="+value)
	}
	changed, err := b.tryProfile(scope, next)
	if err != nil {
		return v1.PowerProfile{}, err
	}
	out := b.profileOf(scope, b.profileWith(path, host, scope, next), next)
	out.Hosts, out.Changed, out.Revision = len(b.hostsBelow(scope)), changed, had.Rev
	key := leases.ProfileKey(scope)
	op := leases.Put(key, next)
	if len(next.Fields) == 0 {
		op = leases.Delete(key)
	}
	x := b.audit("power.profile", who, fmt.Sprintf("power profile at %s: %s", scope, strings.Join(said, ", ")), c.Reason)
	x.Host, x.Partition = host, path
	out.Revision, err = b.write(ctx, "power profile at "+scope, at(key, ifRev, had.Rev), x, op)
	return out, err
}

// profileWith is the profile of a host or partition as if one scope said something else.
func (b *backend) profileWith(path, host, scope string, r v1.ProfileRecord) power.Profile {
	b.view.mu.RLock()
	defer b.view.mu.RUnlock()
	layers := b.view.profileLayers(path, host)
	for i := range layers {
		if layers[i].Scope == scope {
			layers[i].Fields = r.Fields
		}
	}
	return power.ResolveProfile(layers)
}

// tryProfile returns the hosts whose devices a change reaches. Error: some of them could
// not be used any more.
func (b *backend) tryProfile(scope string, r v1.ProfileRecord) (changed []string, err error) {
	var bad []string
	hosts := 0
	for _, id := range b.hostsBelow(scope) {
		spec, ok := b.view.spec(id)
		if !ok {
			continue
		}
		was, will := b.view.profile(spec.Val.Partition, id), b.profileWith(spec.Val.Partition, id, scope, r)
		if reflect.DeepEqual(was, will) {
			continue
		}
		changed = append(changed, id)
		var before []string
		for _, e := range b.w().checkDevices(spec.Val, was) {
			before = append(before, e.Error())
		}
		news := ""
		for _, e := range b.w().checkDevices(spec.Val, will) {
			if news == "" && !slices.Contains(before, e.Error()) {
				news = fmt.Sprintf("host %s: %v", id, e)
			}
		}
		if news == "" {
			continue
		}
		if hosts++; len(bad) < maxTold {
			bad = append(bad, news)
		}
	}
	if hosts > len(bad) {
		bad = append(bad, fmt.Sprintf("and %d hosts more", hosts-len(bad)))
	}
	if hosts > 0 {
		return nil, badField("set", "power profile at "+scope+": "+strings.Join(bad, "; "))
	}
	return changed, nil
}
