// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"maps"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// ExplainPower implements api.Backend.
func (f *Fleet) ExplainPower(ctx context.Context, id string) (v1.PowerExplanation, error) {
	h, err := f.Host(ctx, id)
	if err != nil {
		return v1.PowerExplanation{}, err
	}
	x := v1.PowerExplanation{Host: id, State: h.Status.Power, Since: h.Status.PowerSince, Cause: "external", Why: "level 1 reads ON: nobody ordered it here", Least: "A3",
		Says: []string{"level 1 (bmc): hard off, then OFF read 3 times over 6s; proves A3"}}
	lv := v1.PowerLevel{Level: 1, Mode: "all", State: h.Status.Power, Proves: "A3", Least: "A3", Tested: true}
	for _, d := range h.Status.Devices {
		lv.Devices = append(lv.Devices, v1.PowerDevice{DeviceStatus: d, Address: "10.0.3.1:623", Identity: v1.Identity{SystemUUID: "4c4c4544"},
			Fields: []v1.ProfileField{{Name: "driver", Value: "ipmi", Origin: "global"}, {Name: "level", Value: "1", Origin: "driver"}}})
	}
	x.Levels = append(x.Levels, lv)
	return x, nil
}

// PowerProfile implements api.Backend.
func (f *Fleet) PowerProfile(_ context.Context, scope string) (v1.PowerProfile, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	return f.profile(scope), nil
}

func (f *Fleet) profile(scope string) v1.PowerProfile {
	p := v1.PowerProfile{Scope: scope, Hosts: len(f.HostMap), Fields: []v1.ProfileField{}}
	for _, name := range slices.Sorted(maps.Keys(f.Profile)) {
		p.Fields = append(p.Fields, v1.ProfileField{Name: name, Value: f.Profile[name], Origin: "global"})
	}
	return p
}

// ChangePowerProfile implements api.Backend; there is one scope.
func (f *Fleet) ChangePowerProfile(ctx context.Context, who, scope string, c v1.ProfileChange, rev int64) (v1.PowerProfile, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	if v, ok := c.Set["class"]; ok && v != "slow" {
		return v1.PowerProfile{}, v1.BadField("class", "%q, allowed are fragile, normal, slow", v)
	}
	if err := check("power profile at "+scope, 0, rev); err != nil {
		return v1.PowerProfile{}, err
	}
	for _, name := range c.Unset {
		delete(f.Profile, name)
	}
	maps.Copy(f.Profile, c.Set)
	p := f.profile(scope)
	p.Changed = []string{"h-1"}
	f.note(who, "change power profile %s", scope)
	return p, nil
}
