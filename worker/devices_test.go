// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/coordinator/budget"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

func idle(t *testing.T) *Worker {
	t.Helper()
	w, err := New(Options{ID: "w1", Etcd: []string{"http://127.0.0.1:1"}, InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func profileOf(fields ...string) power.Profile {
	l := power.ProfileLayer{Scope: "zone/z", Fields: map[string]string{}}
	for i := 0; i < len(fields); i += 2 {
		l.Fields[fields[i]] = fields[i+1]
	}
	return power.ResolveProfile([]power.ProfileLayer{l})
}

// BMC → PDU → manual, with what each proves (power.md §9.1).
func TestDefaultLadder(t *testing.T) {
	spec := v1.HostSpec{ID: "h1", Power: []v1.Device{
		{Name: "hand", Driver: "manual"}, {Name: "outlets", Driver: "pdu"}, {Name: "board", Driver: "ipmi"}, {Name: "web", Driver: "redfish"},
	}}
	got := ladderOf(idle(t).devices(spec, power.Profile{}), power.Profile{}, power.A3)
	want := []power.Level{
		{N: 1, Devices: []string{"board", "web"}, Min: power.A3}, // any: two paths to one BMC
		{N: 2, Devices: []string{"outlets"}, All: true, Min: power.A3, Ceilings: map[string]power.Assurance{"outlets": power.A5}, Feeds: []string{"outlets"}},
		{N: 4, Devices: []string{"hand"}, Human: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ladder (-want +got):\n%s", diff)
	}
	p := profileOf("level.1.mode", "all", "level.1.deadline", "90s", "level.2.assurance", "A5", "device.board.level", "3", "device.web.assurance", "A2")
	got = ladderOf(idle(t).devices(spec, p), p, power.A3)
	want = []power.Level{
		{N: 1, Devices: []string{"web"}, All: true, Min: power.A3, Deadline: 90 * time.Second, Ceilings: map[string]power.Assurance{"web": power.A2}},
		{N: 2, Devices: []string{"outlets"}, All: true, Min: power.A5, Ceilings: map[string]power.Assurance{"outlets": power.A5}, Feeds: []string{"outlets"}},
		{N: 3, Devices: []string{"board"}, All: true, Min: power.A3},
		{N: 4, Devices: []string{"hand"}, Human: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ladder of the profile (-want +got):\n%s", diff)
	}
}

// What a declaration leaves out comes from the profile, with its origin (power.md §9.6).
func TestDevicesInherit(t *testing.T) {
	w := idle(t)
	p := profileOf("device.bmc.driver", "ipmi", "device.bmc.user", "holdfast", "device.bmc.secret", "file:{host}", "device.bmc.address", "{host}.bmc.example", "device.bmc.param.cipher", "17")
	d := w.effectiveDevice(v1.HostSpec{ID: "h1"}, v1.Device{Name: "bmc"}, p)
	if d.Driver != "ipmi" || d.User != "holdfast" || d.Secret != "file:h1" || d.Address != "h1.bmc.example" || d.Params["cipher"] != "17" || d.proves != power.A3 || d.Level != 1 {
		t.Errorf("all inherited: %+v", d)
	}
	if d.origins["secret"] != "zone/z" || d.origins["param.cipher"] != "zone/z" || d.origins["level"] != "driver" {
		t.Errorf("origins %v", d.origins)
	}
	own := w.effectiveDevice(v1.HostSpec{ID: "h1"}, v1.Device{Name: "bmc", Driver: "redfish", Address: "10.0.0.1", Params: map[string]string{"tls": "system"}}, p)
	if own.User != "holdfast" || len(own.Params) != 1 || own.origins["address"] != originHost || own.origins["driver"] != originHost {
		t.Errorf("another driver takes the account, not the parameters: %+v, %v", own, own.origins)
	}
	if own.config == d.config || d.config != w.effectiveDevice(v1.HostSpec{ID: "h1"}, v1.Device{Name: "bmc"}, p).config {
		t.Error("a change of the configuration is not seen, or one is seen that was not there")
	}
}

// Errors name field, value and what is allowed; what cannot prove anything is refused.
func TestBadDevicesAreRefused(t *testing.T) {
	t.Setenv("HOLDFAST_TEST_DEVICE", "pw")
	w := idle(t)
	bmc := v1.Device{Name: "bmc", Driver: "ipmi", Address: "10.0.0.1", User: "op", Secret: "env:HOLDFAST_TEST_DEVICE"}
	with := func(change func(*v1.Device)) v1.Device { d := bmc; change(&d); return d }
	feed := func(name string, level int) v1.Device {
		return v1.Device{Name: name, Driver: "pdu", Level: level, Address: "pdu"}
	}
	for _, c := range []struct {
		name    string
		devices []v1.Device
		p       power.Profile
		want    string
	}{
		{"no driver", []v1.Device{with(func(d *v1.Device) { d.Driver = "" })}, power.Profile{}, `power[0].driver: "" (no profile names one for device bmc), allowed are exec, fenceagent, ipmi`},
		{"level", []v1.Device{with(func(d *v1.Device) { d.Level = 10 })}, power.Profile{}, "power[0].level: 10, allowed are 1 to 9"},
		{"more than its driver can prove", []v1.Device{with(func(d *v1.Device) { d.Assurance = "A5" })}, power.Profile{}, "power[0].assurance: A5, allowed with driver ipmi are A0 to A3"},
		{"assurance", []v1.Device{with(func(d *v1.Device) { d.Assurance = "sure" })}, power.Profile{}, `power[0].assurance: "sure", allowed are A0 to A3`},
		{"no secret where one is needed", []v1.Device{with(func(d *v1.Device) { d.User, d.Secret = "", "" })}, power.Profile{}, "no secret is configured"},
		{"a human among devices", []v1.Device{bmc, {Name: "hand", Driver: "manual", Level: 1}}, power.Profile{}, "power[1].level: 1, allowed is a level of its own"},
		{"a human before devices", []v1.Device{{Name: "hand", Driver: "manual", Level: 1}, with(func(d *v1.Device) { d.Level = 2 })}, power.Profile{}, "power[0].level: 1, allowed is the last one"},
		{"feeds on two levels", []v1.Device{feed("a", 2), feed("b", 3)}, power.Profile{}, "power[1].level: 3, allowed is 2"},
		{"any of two feeds", []v1.Device{feed("a", 2), feed("b", 2)}, profileOf("level.2.mode", "any"), "is of mode any"},
	} {
		text := ""
		for _, err := range w.checkDevices(v1.HostSpec{ID: "h1", Power: c.devices}, c.p) {
			text += err.Error() + "\n"
		}
		if !strings.Contains(text, c.want) {
			t.Errorf("%s: got\n%swant words %q", c.name, text, c.want)
		}
	}
	// Drivers that need no secret get none.
	if errs := w.checkDevices(v1.HostSpec{ID: "h1", Power: []v1.Device{bmc, {Name: "hand", Driver: "manual"}}}, power.Profile{}); len(errs) > 0 {
		t.Errorf("a good ladder: %v", errs)
	}
}

// A human is neither read nor tested, and a host with nothing else says what it needs.
func TestManualIsNotAsked(t *testing.T) {
	r := newRig(t)
	r.put(t, leases.HostSpecKey("h1"), v1.HostSpec{V: 1, ID: "h1", Partition: cluster, Provider: "kvm", Pools: []string{"nfs1"}, Power: []v1.Device{{Name: "hand", Driver: "manual"}}})
	o := loaded(t, r, "h1", time.Minute)
	devices, bad := o.targets()
	if len(devices)+len(bad) > 0 {
		t.Errorf("it would be talked to: %+v, %+v", devices, bad)
	}
	o.absorb(t.Context(), nil)
	if len(o.pow.Machine.Levels) > 0 {
		t.Errorf("its power is read: %+v", o.pow.Machine)
	}
	if ok, why := o.powerTested(); ok || !strings.Contains(why, "confirm-off") {
		t.Errorf("fit %v: %s", ok, why)
	}
	if got := o.levelFacts(o.now(), nil); len(got) > 0 {
		t.Errorf("guards are asked about a human: %+v", got)
	}
}

// An operator's power-down is counted in every budget of the host in the transaction that
// records it, and never refused, also when they are used up (power.md §9.5, ha.md §6).
func TestOperatorsOrdersAreCounted(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", true)
	r.put(t, leases.SettingKey("global", "power.packet.timeout"), v1.SettingRecord{V: 1, Value: "200ms"}) // the lease here is short
	full := budget.Counter{V: 1, Times: []time.Time{time.Now().UTC(), time.Now().UTC(), time.Now().UTC()}, Latched: true}
	r.put(t, leases.BudgetKey("cluster/"+cluster), full)
	w, _ := r.worker(t, "w1")
	eventually(t, "its device is enrolled", func() bool {
		rec, _ := read[powerRecord](t, r, leases.HostPowerKey("h1"))
		return rec.Devices["bmc"].TestOK
	})
	res, err := (*backend)(w).Order(t.Context(), "ann", "h1", v1.OrderRequest{Verb: "off"})
	if err != nil || !strings.Contains(res.Message, "cluster/"+cluster+" 4 of 3") {
		t.Fatalf("off: %+v, %v", res, err)
	}
	for scope, want := range map[string]int{"host/h1": 1, "cluster/" + cluster: 4, "pod/z/p": 1, "zone/z": 1} {
		c, _ := read[budget.Counter](t, r, leases.BudgetKey(scope))
		if got := c.Used(time.Now(), time.Hour); got != want {
			t.Errorf("budget %s counts %d, want %d", scope, got, want)
		}
	}
	eventually(t, "the order is over", func() bool {
		rec, _ := read[ha.Record](t, r, leases.HostHAKey("h1"))
		return rec.OrderTxn == nil
	})
	if _, err := (*backend)(w).Order(t.Context(), "ann", "h1", v1.OrderRequest{Verb: "on"}); err != nil {
		t.Fatal(err)
	}
	if c, _ := read[budget.Counter](t, r, leases.BudgetKey("zone/z")); c.Used(time.Now(), time.Hour) != 1 {
		t.Error("switching on was counted as a power-down")
	}
}

// Closed incidents are bounded by count and age, in the transaction that closes one.
func TestOldIncidentsAreForgotten(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	now := o.now()
	for i := range maxIncidents + 4 {
		at := now.Add(-time.Duration(i) * time.Hour)
		if i >= maxIncidents+2 {
			at = at.Add(-2 * maxIncidentAge)
		}
		id := fmt.Sprintf("i%03d", i)
		r.put(t, leases.IncidentKey("h1", id), ha.Incident{ID: id, Opened: at, Ended: at.Add(time.Minute)})
	}
	r.put(t, leases.IncidentKey("h2", "other"), ha.Incident{ID: "other", Opened: now.Add(-3 * maxIncidentAge), Ended: now.Add(-3 * maxIncidentAge)})
	end := ha.Incident{ID: "new", Opened: now, Ended: now}
	if !o.commit(t.Context(), ha.Event{Kind: ha.EvTick, At: now}, o.rec, []ha.Effect{{Kind: ha.CloseIncident, Incident: &end}}) {
		t.Fatal("not committed")
	}
	kvs, _, err := r.client.List(t.Context(), leases.IncidentsPrefix+"h1/")
	if err != nil {
		t.Fatal(err)
	}
	if len(kvs) != maxIncidents {
		t.Errorf("%d incidents are kept, want %d", len(kvs), maxIncidents)
	}
	for _, kv := range kvs {
		var i ha.Incident
		if err := json.Unmarshal(kv.Value, &i); err != nil || now.Sub(i.Ended) > maxIncidentAge {
			t.Errorf("kept %s: %v, %v", kv.Key, i.Ended, err)
		}
	}
	if _, rev := read[ha.Incident](t, r, leases.IncidentKey("h2", "other")); rev == 0 {
		t.Error("another host's incident is gone")
	}
	// Nobody closes an incident of a host that was forgotten: h2 is not declared.
	r.put(t, leases.IncidentKey("h2", "open"), ha.Incident{ID: "open", Opened: now.Add(-3 * maxIncidentAge)})
	r.put(t, leases.IncidentKey("h2", "young"), ha.Incident{ID: "young", Opened: now.Add(-maxIncidentAge), Ended: now.Add(time.Minute - maxIncidentAge)})
	ops, err := o.w.oldIncidents(t.Context(), now)
	if want := []leases.Op{leases.Delete(leases.IncidentKey("h2", "other"))}; err != nil || !reflect.DeepEqual(ops, want) {
		t.Errorf("to be forgotten: %+v, %v", ops, err)
	}
	// Nor does anybody own its commands. Those of h1 go with its owner's next one.
	ended := command.Record{V: 1, Seq: 2, Released: true, Ended: now.Add(-8 * 24 * time.Hour)}
	recent, open := ended, ended
	recent.Ended, open.Released = now.Add(-time.Hour), false
	for key, rec := range map[string]command.Record{
		leases.CommandKey("h2", "ended"): ended, leases.CommandKey("h2", "recent"): recent, leases.CommandKey("h2", "open"): open, leases.CommandKey("h1", "ended"): ended,
	} {
		r.put(t, key, rec)
	}
	want := []leases.Op{leases.Delete(leases.CommandKey("h2", "ended")), leases.Delete(leases.JournalKey("h2", "ended", 1)), leases.Delete(leases.JournalKey("h2", "ended", 2))}
	eventually(t, "commands of a forgotten host are deleted", func() bool { return reflect.DeepEqual(o.w.orphanedCommands(now), want) })
}

// Profiles change live: checked against every host below before they are written, tested
// at once, all fields or none (power.md §9.6).
func TestProfilesChangeLive(t *testing.T) {
	s := newService(t, "pw-8ad1", nil)
	s.put(t, leases.SettingKey("host/h1", "power.sync.interval"), v1.SettingRecord{V: 1, Value: "1h"}) // tested at once, not when it is next read
	s.serve()
	b := (*backend)(s.w)
	s.tested()
	_, first, _ := s.see()
	scope := "cluster/" + cluster
	change := func(c v1.ProfileChange, dry bool) (v1.PowerProfile, error) {
		ctx := t.Context()
		if dry {
			ctx, _ = api.WithTrial(ctx)
		}
		return b.ChangePowerProfile(ctx, "ann", scope, c, -1)
	}
	for _, c := range []struct {
		set  map[string]string
		want string
	}{
		{map[string]string{"device.bmc.param.cipher": "99"}, `host h1: power[0]: device bmc`},
		{map[string]string{"device.bmc.driver": "telnet"}, "allowed are exec, fenceagent, ipmi"},
		{map[string]string{"device.bmc.secret": "hunter2"}, "never the secret itself"},
		{map[string]string{"class": "slow", "level.1.mode": "some"}, "allowed is all, any"},
	} {
		var p *v1.Problem
		if _, err := change(v1.ProfileChange{Set: c.set}, false); !errors.As(err, &p) || p.Field == "" || !strings.Contains(p.Detail, c.want) || strings.Contains(p.Detail, "hunter2") {
			t.Errorf("%v: %v", c.set, err)
		}
	}
	if _, rev := read[v1.ProfileRecord](t, s.rig, leases.ProfileKey(scope)); rev != 0 {
		t.Fatal("a refused change is on record")
	}
	set := v1.ProfileChange{Set: map[string]string{"device.bmc.param.cipher": "17", "class": "fragile"}, Reason: "old boards"}
	if p, err := change(set, true); err != nil || len(p.Changed) != 1 {
		t.Fatalf("dry run: %+v, %v", p, err)
	}
	if _, rev := read[v1.ProfileRecord](t, s.rig, leases.ProfileKey(scope)); rev != 0 {
		t.Fatal("a dry run is on record")
	}
	if _, err := change(set, false); err != nil {
		t.Fatal(err)
	}
	s.until("the device is tested anew", func(_ power.Machine, d deviceRecord, _ ha.Record) bool {
		return d.TestOK && d.Config != first.Config
	})
	x, err := b.ExplainPower(t.Context(), "h1")
	if err != nil {
		t.Fatal(err)
	}
	dev := x.Levels[0].Devices[0]
	if !cmp.Equal(dev.Fields[len(dev.Fields)-3:], []v1.ProfileField{{Name: "param.cipher", Value: "17", Origin: scope}, {Name: "secret", Value: "env:" + s.env, Origin: originHost}, {Name: "user", Value: "op", Origin: originHost}}) {
		t.Errorf("fields %+v", dev.Fields)
	}
	if dev.Depth == nil || *dev.Depth != int(depthPrivilege) || dev.Identity.SystemUUID == "" {
		t.Errorf("device %+v", dev)
	}
	p, err := change(v1.ProfileChange{Unset: []string{"class", "device.bmc.param.cipher"}}, false)
	if err != nil || len(p.Fields) != 0 {
		t.Errorf("taken back: %+v, %v", p, err)
	}
	if _, rev := read[v1.ProfileRecord](t, s.rig, leases.ProfileKey(scope)); rev != 0 {
		t.Error("an empty profile stays on record")
	}
}

// A quirk keeps an operator from what the hardware cannot do.
func TestNoResetQuirk(t *testing.T) {
	s := newService(t, "pw-8ad1", nil)
	s.put(t, leases.ProfileKey("zone/z"), v1.ProfileRecord{V: 1, Fields: map[string]string{"quirks": "no-reset"}})
	s.serve()
	s.tested()
	var p *v1.Problem
	if _, err := (*backend)(s.w).Order(t.Context(), "ann", "h1", v1.OrderRequest{Verb: "reset"}); !errors.As(err, &p) || !strings.Contains(p.Detail, "quirk no-reset at zone/z") {
		t.Errorf("reset: %v", err)
	}
	for _, e := range s.bmc.Truth() {
		if e.Verb == bmc.VerbReset {
			t.Errorf("it was reset: %+v", e)
		}
	}
}
