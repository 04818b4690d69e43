// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
	"github.com/holdfast-ha/holdfast/leases"
)

// This file is how settings are resolved for a host or partition of the view.

// effective are the settings resolved for one host or partition.
type effective = settings.Effective

type cachedSettings struct {
	version int64
	until   time.Time // a layer's value expires then; zero: never
	eff     effective
	profile power.Profile
}

func splitSetting(key string) (scope, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, leases.SettingsPrefix)
	i := strings.LastIndexByte(rest, '/')
	if !ok || i < 0 {
		return "", "", false
	}
	return rest[:i], rest[i+1:], true
}

// effective resolves the settings for a host (or, with host "", for a partition path)
// as they are at now; where nobody set one explicitly, a device class of the power
// profile may.
func (v *view) effective(path, host string, now time.Time) effective {
	eff, _ := v.resolved(path, host, now)
	return eff
}

// profile resolves the power profile of a host or, with host "", of a partition path.
func (v *view) profile(path, host string) power.Profile {
	_, p := v.resolved(path, host, time.Now())
	return p
}

func (v *view) resolved(path, host string, now time.Time) (effective, power.Profile) {
	v.mu.RLock()
	if scope := "host/" + host; len(v.settings[scope]) == 0 && len(v.profiles[scope].Val.Fields) == 0 {
		host = "" // nothing is said of it alone: it shares with its partition
	}
	key := path + "|" + host
	c, ok := v.cache[key]
	fresh := ok && c.version == v.version && (c.until.IsZero() || now.Before(c.until))
	v.mu.RUnlock()
	if fresh {
		return c.eff, c.profile
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	layers, until := v.layers(path, host, now)
	c = cachedSettings{version: v.version, until: until, eff: settings.Resolve(layers), profile: power.ResolveProfile(v.profileLayers(path, host))}
	for name, f := range c.profile.Figures() {
		c.eff = c.eff.WithFigure(name, f.Value, f.Origin)
	}
	v.cache[key] = c
	return c.eff, c.profile
}

// profileLayers are what is said of power devices at the scopes of a host or partition,
// the widest first. The caller holds the lock.
func (v *view) profileLayers(path, host string) (layers []power.ProfileLayer) {
	for _, scope := range settings.ScopesOf(path, host) {
		layers = append(layers, power.ProfileLayer{Scope: scope, Fields: v.profiles[scope].Val.Fields})
	}
	return layers
}

// layers are the values set for a host or partition, widest scope first, without those
// that have expired, and when the next one does. The caller holds the lock.
func (v *view) layers(path, host string, now time.Time) (layers []settings.Layer, until time.Time) {
	for _, scope := range settings.ScopesOf(path, host) {
		values := map[string]string{}
		for name, r := range v.settings[scope] {
			if e := r.Val.Expires; !e.IsZero() {
				if !now.Before(e) {
					continue
				}
				if until.IsZero() || e.Before(until) {
					until = e
				}
			}
			values[name] = r.Val.Value
		}
		layers = append(layers, settings.Layer{Scope: scope, Values: values})
	}
	return layers, until
}

// changedLayers are the layers as they would be with one value set, or, with value
// empty, taken back.
func (v *view) changedLayers(path, host, scope, name, value string) []settings.Layer {
	v.mu.RLock()
	defer v.mu.RUnlock()
	layers, _ := v.layers(path, host, time.Now())
	for _, l := range layers {
		switch {
		case l.Scope != scope:
		case value == "":
			delete(l.Values, name)
		default:
			l.Values[name] = value
		}
	}
	return layers
}

// disarmed lists the scopes of a host that are disarmed now, as shown to operators.
func (v *view) disarmed(path, host string, now time.Time) []string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []string
	for _, scope := range settings.ScopesOf(path, host) {
		r, ok := v.settings[scope][settingArmed]
		if !ok || r.Val.Value != "false" || (!r.Val.Expires.IsZero() && !now.Before(r.Val.Expires)) {
			continue
		}
		s := scope
		if !r.Val.Expires.IsZero() {
			s += " until " + r.Val.Expires.UTC().Format(time.RFC3339)
		}
		if r.Val.Reason != "" {
			s += " (" + r.Val.Reason + ")"
		}
		out = append(out, s)
	}
	return out
}

// rearmed is when the last disarming of a host that expires does; zero: none will.
func (v *view) rearmed(path, host string, now time.Time) (at time.Time) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, scope := range settings.ScopesOf(path, host) {
		if r, ok := v.settings[scope][settingArmed]; ok && r.Val.Value == "false" && r.Val.Expires.After(now) {
			at = later(at, r.Val.Expires)
		}
	}
	return at
}

// disabled lists the levels of a partition path where the level itself or HA is
// disabled. A level without a spec is enabled.
func (v *view) disabled(path string) (out []string) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, p := range settings.Prefixes(path) {
		s := v.parts[p].Val
		switch {
		case s.Disabled:
			out = append(out, p+" is disabled")
		case s.HADisabled:
			out = append(out, "HA is disabled at "+p)
		}
	}
	return out
}

// switches are the revisions of all keys by which people keep automation from acting on a
// host, beside the host's own declaration; 0 for one that is not set.
func (v *view) switches(path, host string) map[string]int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := map[string]int64{}
	for _, scope := range settings.ScopesOf(path, host) {
		out[leases.SettingKey(scope, settingArmed)] = v.settings[scope][settingArmed].Rev
	}
	for _, p := range settings.Prefixes(path) {
		out[leases.PartitionSpecKey(p)] = v.parts[p].Rev
	}
	return out
}
