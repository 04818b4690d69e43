// SPDX-License-Identifier: Apache-2.0

package power

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// global < zone < pod < cluster < host, field by field; each value tells who said it
// (power.md §9.6).
func TestProfileMergesFieldByField(t *testing.T) {
	p := ResolveProfile([]ProfileLayer{
		{"global", map[string]string{"device.bmc.driver": "ipmi", "device.bmc.user": "holdfast", "device.bmc.param.cipher": "17", "class": "slow", "quirks": "late-answers,no-reset"}},
		{"zone/z1", map[string]string{"device.bmc.user": "zone", "level.2.mode": "any"}},
		{"cluster/z1/p1/c1", map[string]string{"device.bmc.driver": "redfish", "device.bmc.param.tls": "system"}},
		{"host/h1", map[string]string{"class": "fragile", "level.2.mode": "sometimes"}},
	})
	want := map[string]ProfileValue{
		"device.bmc.driver": {"redfish", "cluster/z1/p1/c1"}, "device.bmc.user": {"zone", "zone/z1"}, "device.bmc.param.tls": {"system", "cluster/z1/p1/c1"},
		"class": {"fragile", "host/h1"}, "quirks": {"late-answers,no-reset", "global"}, "level.2.mode": {"any", "zone/z1"},
	}
	if diff := cmp.Diff(want, p.fields); diff != "" {
		t.Errorf("effective (-want +got):\n%s", diff)
	}
	if got := p.Params("bmc"); len(got) != 1 || got["tls"].Value != "system" {
		t.Errorf("parameters of another driver were inherited: %v", got)
	}
	if !p.Has("no-reset") || p.Has("state-lag") {
		t.Error("quirks")
	}
	f := p.Figures()
	if f["power.session.gap"] != (ProfileValue{"5s", "class fragile at host/h1"}) || f["power.packet.timeout"] != (ProfileValue{"5s", "quirk late-answers at global"}) {
		t.Errorf("figures %v", f)
	}
	if (Profile{}).Has("no-reset") || len((Profile{}).Figures()) > 0 {
		t.Error("the zero profile says something")
	}
}

// Bad input is named with its field, its value and what is allowed.
func TestProfileFieldsAreChecked(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"klass", "slow", "there is no such field"},
		{"class", "lame", "fragile, normal, slow"},
		{"quirks", "no-reset,what", "late-answers"},
		{"device.bmc.level", "0", "1 to 9"}, {"device.bmc.level", "10", "1 to 9"},
		{"device.bmc.assurance", "A6", "A0 to A5"},
		{"device.bmc.param.", "x", "there is no such field"},
		{"device.b.m.c.driver", "ipmi", "there is no such field"},
		{"device.bmc.user", "a\nb", "allowed is"}, {"device.bmc.user", "", "allowed is"},
		{"level.1.deadline", "5s", "51s to 30m"}, {"level.0.mode", "all", "there is no such field"},
		{"level.1.assurance", "A1", "A2 to A5"},
	} {
		if err := CheckProfileField(c.name, c.value); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%q: %v, want words %q", c.name, c.value, err, c.want)
		}
	}
	for name, value := range map[string]string{"class": "normal", "quirks": "none", "device.bmc.param.cipher": "17", "level.9.deadline": "60s", "device.pdu-1.secret": "file:{host}"} {
		if err := CheckProfileField(name, value); err != nil {
			t.Error(err)
		}
	}
}
