// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

func topology(t *testing.T, text string) Topology {
	t.Helper()
	top, err := ParseTopology([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return top
}

func playAll(t *testing.T, top Topology, script string) *Fleet {
	t.Helper()
	s, err := ParseScript(script)
	if err != nil {
		t.Fatal(err)
	}
	f := New(top)
	if err := f.Play(s); err != nil {
		t.Fatal(err)
	}
	return f
}

const four = "clusters: [{path: z1/p1/c1, hosts: 4, racks: [r1, r2]}]"

// The same topology, script and seed give the same story; another seed another one.
func TestDeterministic(t *testing.T) {
	const script = "10s crash h3\nh3:off+1s kill owner:h3\n+2s bmc h3 flaky\n20m end"
	tell := func(seed uint64) string {
		top := topology(t, four)
		top.Seed = seed
		var out strings.Builder
		if err := playAll(t, top, script).Result().Write(&out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if d := cmp.Diff(tell(1), tell(1)); d != "" {
		t.Errorf("the same seed tells another story:\n%s", d)
	}
	if tell(1) == tell(2) {
		t.Error("another seed changes nothing")
	}
}

// A healthy fleet costs nothing between events: no event a ping, reading or look.
func TestQuietFleetCostsNothing(t *testing.T) {
	f := playAll(t, topology(t, four), "1h end")
	before := f.q.seq
	f.Run(f.Now().Add(1000 * time.Hour))
	if n := f.q.seq - before; n > 100 {
		t.Errorf("%d events in 1000 hours of four healthy hosts", n)
	}
	if len(f.Broken()) > 0 || len(f.Unfinished()) > 0 {
		t.Errorf("broken %v, unfinished %v", f.Broken(), f.Unfinished())
	}
}

// Mistakes name what is wrong and what is allowed.
func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"clusters: [{path: z1, hosts: 2}]":                              `clusters[0].path: "z1", allowed is zone/pod/cluster`,
		"clusters: [{path: z1/p1/c1, hosts: 0}]":                        "clusters[0].hosts: 0, allowed are 1 to 100000",
		"workers: [w1]":                                                 "hosts: none, allowed is at least one",
		"hosts: [{id: a}, {id: a}]":                                     `hosts[1].id: "a", allowed is a name that no other host has`,
		"hosts: [{id: a, power: [ups]}]":                                `power: "ups", allowed are bmc, pdu, manual, none`,
		"hosts: [{id: a, boot: soon}]":                                  `boot: "soon", allowed is a duration`,
		"{hosts: [{id: a}], settings: {global: {ha.policy: maybe}}}":    `ha.policy: value "maybe"`,
		"{hosts: [{id: a}], settings: {zone/z1: {worker.warmup: '1'}}}": "allowed scopes are global",
		"{hosts: [{id: a}], settings: {global: {ha.nonsense: x}}}":      "there is no such setting",
		"{hosts: [{id: a, colour: red}]}":                               "unknown field",
	} {
		if _, err := ParseTopology([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("topology %s: %v, want %s", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"10s":                   "wanted is <when> <what>",
		"soon crash h1":         `when "soon", allowed are`,
		"10s explode h1":        `"explode" is no verb, allowed are`,
		"10s crash":             "crash: wanted is crash <hosts>",
		"10s crash h9":          `host "h9" is not in the topology`,
		"h9=FENCED crash h1":    `host "h9" is not in the topology`,
		"10s bmc h1 angry":      `bmc "angry", allowed are`,
		"10s cut h1 wifi":       `network "wifi", allowed are`,
		"10s lose rack r9":      `rack "r9" is not in the topology`,
		"10s lose moon m1":      `"moon", allowed are rack`,
		"10s kill w9":           `worker "w9" is not in the topology`,
		"10s pause w1 long":     `"long" is no duration`,
		"10s order h1 dance":    `order "dance", allowed are`,
		"10s ha z9 off":         `partition "z9" is not in the topology`,
		"10s set global a b":    `setting "a": there is no such setting`,
		"10s maintenance h1 ok": `switch "ok", allowed are`,
	} {
		s, err := ParseScript(text)
		if err == nil {
			err = New(topology(t, four)).Play(s)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("script %s: %v, want %s", text, err, want)
		}
	}
}

// The rules see a fleet that breaks them: a power-off of a host that was never seen idle,
// a release of a boot that runs, an incident that vanishes.
func TestRulesCatch(t *testing.T) {
	f := playAll(t, topology(t, four), "1m end")
	o := f.byID["h1"].owner
	from := o.rec
	from.Incident = &ha.Incident{ID: "i1", Boot: o.h.boot(), Opened: o.wall(), Purpose: guard.Recover, Action: &power.Txn{ID: "t1"}}
	f.rules.committed(o, ha.Event{Kind: ha.EvTick}, from, []ha.Effect{{Kind: ha.Announce, Type: "ha.safe-to-restart", Boot: o.h.boot()}})
	o.rec.Incident = from.Incident
	f.rules.packet(o, power.TxnEffect{Txn: "t1", Verb: power.HardOff})
	var got []string
	for _, b := range f.Broken() {
		got = append(got, b.Rule)
	}
	if d := cmp.Diff([]string{"incidents", "release", "kill"}, got); d != "" {
		t.Errorf("rules broken (-want +got):\n%s", d)
	}
}
