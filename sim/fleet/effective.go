// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
)

// cached is what is in effect for one host, until a setting changes or expires.
type cached struct {
	settings.Effective
	version int
	until   time.Time
	stamp   time.Duration
	policy  ha.Policy
}

// effectiveOf resolves the settings of a partition path or a host.
func (f *Fleet) effectiveOf(path, host string) settings.Effective {
	e, _ := f.resolve(path, host)
	return e
}

func (f *Fleet) resolve(path, host string) (settings.Effective, time.Time) {
	var layers []settings.Layer
	var until time.Time
	for _, scope := range settings.ScopesOf(path, host) {
		values := map[string]string{}
		for name, s := range f.settings[scope] {
			if !s.expires.IsZero() {
				if !f.now.Before(s.expires) {
					continue
				}
				if until.IsZero() || s.expires.Before(until) {
					until = s.expires
				}
			}
			values[name] = s.value
		}
		layers = append(layers, settings.Layer{Scope: scope, Values: values})
	}
	return settings.Resolve(layers), until
}

// effective is the settings of a host; hosts of one partition with the same devices and
// nothing said for themselves share them.
func (f *Fleet) effective(h *host) cached {
	key := h.Partition + "|" + strings.Join(h.Power, ",")
	own := ""
	if len(f.settings["host/"+h.ID]) > 0 {
		key, own = key+"|"+h.ID, h.ID
	}
	c, ok := f.cache[key]
	if ok && c.version == f.version && (c.until.IsZero() || f.now.Before(c.until)) {
		return c
	}
	e, until := f.resolve(h.Partition, own)
	proof := power.A3
	if proof.UnmarshalText([]byte(e.String("ha.proof.min"))) != nil {
		proof = power.A5
	}
	on := slices.ContainsFunc(h.devices(), func(d string) bool { return d != "manual" })
	c = cached{Effective: e, version: f.version, until: until, stamp: e.Duration("ha.stamp.interval"), policy: ha.PolicyOf(e, proof, ladderOf(h, proof), on)}
	f.cache[key] = c
	return c
}

// pace is what the agent is to go by.
func (c cached) pace() ha.Pace {
	return ha.Pace{Ping: c.Duration("agent.ping.interval"), Stamp: c.stamp}
}

// ladderOf is one level a device: BMC, PDU, human (power.md §9.1).
func ladderOf(h *host, least power.Assurance) (out []power.Level) {
	for _, d := range h.devices() {
		switch d {
		case "bmc":
			out = append(out, power.Level{N: 1, Devices: []string{d}, All: true, Min: least})
		case "pdu":
			out = append(out, power.Level{N: 2, Devices: []string{d}, All: true, Min: least, Ceilings: map[string]power.Assurance{d: power.A5}})
		case "manual":
			out = append(out, power.Level{N: 4, Devices: []string{d}, Human: true})
		}
	}
	return out
}

// disarmed lists the scopes of a host that are disarmed now.
func (f *Fleet) disarmed(h *host) (out []string) {
	for _, scope := range settings.ScopesOf(h.Partition, h.ID) {
		s, ok := f.settings[scope][settingArmed]
		if !ok || s.value != "false" || !s.expires.IsZero() && !f.now.Before(s.expires) {
			continue
		}
		text := scope
		if !s.expires.IsZero() {
			text += " until " + s.expires.UTC().Format(time.RFC3339)
		}
		if s.reason != "" {
			text += " (" + s.reason + ")"
		}
		out = append(out, text)
	}
	return out
}

const settingArmed = "ha.armed"

// rearmed is when the last disarming of a host expires; zero: none does.
func (f *Fleet) rearmed(h *host) (at time.Time) {
	for _, scope := range settings.ScopesOf(h.Partition, h.ID) {
		if s, ok := f.settings[scope][settingArmed]; ok && s.value == "false" && s.expires.After(f.now) {
			at = later(at, s.expires)
		}
	}
	return at
}

// disabled lists the levels of a path where the level itself or HA is disabled.
func (f *Fleet) disabled(path string) (out []string) {
	for _, p := range settings.Prefixes(path) {
		switch s := f.levels[p]; {
		case s.Disabled:
			out = append(out, p+" is disabled")
		case s.HADisabled:
			out = append(out, "HA is disabled at "+p)
		}
	}
	return out
}

// set writes one setting, or takes it back with value "".
func (f *Fleet) set(scope, name, value, reason string, lasts time.Duration) {
	f.version++
	if f.settings[scope] == nil {
		f.settings[scope] = map[string]setting{}
	}
	if value == "" {
		delete(f.settings[scope], name)
	} else {
		s := setting{value: value, reason: reason}
		if lasts > 0 {
			s.expires = f.now.Add(lasts)
			f.at(s.expires, func() { f.version++; f.policyChanged() })
		}
		f.settings[scope][name] = s
	}
	f.policyChanged()
}

// policyChanged tells every owner that settings or switches are others now.
func (f *Fleet) policyChanged() {
	f.refreshAll()
	for _, h := range f.hosts {
		if o := h.owner; o != nil {
			o.post(o.tellPolicy)
		}
	}
	for _, path := range f.paths() {
		f.parts[path].wake()
	}
}
