// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// TestFasterSettingsAreNoSilence: an agent hears of new settings with the answer to its next
// ping. Until it has pinged once more it is judged by those it goes by.
func TestFasterSettingsAreNoSilence(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, "h1", false)
	set := func(preset string) {
		r.put(t, leases.SettingKey("global", "preset"), v1.SettingRecord{V: 1, Value: preset})
	}
	set("seed")
	o := loaded(t, r, "h1", time.Minute)
	report := &agentpb.Report{HypervisorOk: true}
	ping := func(at time.Time) {
		o.onPing(t.Context(), pingMsg{boot: "b1", report: report, at: at, told: o.settings})
	}
	last := o.now()
	ping(last)
	ping(last)
	if o.policy.PingInterval != time.Minute || o.policy.Told != (ha.Pace{}) {
		t.Fatalf("told as the settings are: %v, kept %v", o.policy.PingInterval, o.policy.Told)
	}
	set("fast")
	caughtUp(t, o.w)
	o.tellPolicy(t.Context())
	if at := o.missAt(); at.Before(last.Add(3 * time.Minute)) {
		t.Errorf("its pings, once a minute, are missed %v after the last one", at.Sub(last))
	}
	if o.policy.CheckWindow < 5*time.Second || o.settings.PingIntervalMs != 1000 {
		t.Errorf("it stamps every 2s and is looked at for %v; its next answer tells it to ping every %dms", o.policy.CheckWindow, o.settings.PingIntervalMs)
	}
	ping(last.Add(time.Minute)) // the answer to this one may be lost
	if o.policy.PingInterval != time.Minute {
		t.Errorf("judged by %v at once", o.policy.PingInterval)
	}
	ping(last.Add(time.Minute + time.Second))
	if o.policy.PingInterval != time.Second || o.policy.CheckWindow != 2*time.Second || o.policy.Told != (ha.Pace{}) {
		t.Errorf("it goes by the new settings and is judged by %v, window %v, kept %v", o.policy.PingInterval, o.policy.CheckWindow, o.policy.Told)
	}
}

// TestWindowSuitsReaders: what is set for one host alone does not blind its neighbours.
func TestWindowSuitsReaders(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, h := range []string{"h1", "h2", "h3"} {
		r.host(t, h, false)
	}
	o := loaded(t, r, "h1", time.Minute)
	for _, c := range []struct {
		scope, setting, value string
		window                time.Duration
	}{
		{"host/h1", "preset", "fast", 5 * time.Second}, // the others stamp every 2s
		{"host/h2", "preset", "fast", 5 * time.Second}, // two are needed
		{"host/h3", "ha.stamp.interval", "60s", 121 * time.Second},
		{"host/h3", "ha.stamp.interval", "500ms", 2 * time.Second},
	} {
		r.put(t, leases.SettingKey(c.scope, c.setting), v1.SettingRecord{V: 1, Value: c.value})
		caughtUp(t, o.w)
		if o.refreshPolicy(); o.policy.CheckWindow != c.window || o.policy.CheckTimeout < c.window+2*time.Second {
			t.Errorf("%s %s at %s: window %v, timeout %v, want a window of %v", c.setting, c.value, c.scope, o.policy.CheckWindow, o.policy.CheckTimeout, c.window)
		}
	}
}
