// SPDX-License-Identifier: Apache-2.0

package pdu

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/sim/bmc"
)

var from = netip.MustParseAddrPort("127.0.0.9:1000")

type binding struct {
	name  oid
	value element
}

func ask(version int, community string, kind byte, first, second int, all ...binding) []byte {
	var list []byte
	for _, b := range all {
		list = append(list, bind(b.name, put(b.value.tag, b.value.body))...)
	}
	body := slices.Concat(putInt(tagInteger, 77), putInt(tagInteger, first), putInt(tagInteger, second), put(tagSequence, list))
	return put(tagSequence, slices.Concat(putInt(tagInteger, version), putString(community), put(kind, body)))
}

func named(names ...oid) (out []binding) {
	for _, n := range names {
		out = append(out, binding{n, element{tagNull, nil}})
	}
	return out
}

func number(name oid, v byte) binding { return binding{name, element{tagInteger, []byte{v}}} }

// answer sends a request and decodes the answer with the server's own parser, which
// net-snmp checks independently elsewhere.
func answer(t *testing.T, p *PDU, q []byte) (r request) {
	t.Helper()
	out := p.Handle(from, q)
	if out == nil {
		t.Fatal("no answer")
	}
	r, ok := p.parse(out)
	if !ok || r.kind != tagResponse || r.id != 77 {
		t.Fatalf("answer % x", out)
	}
	return r
}

func rig(t testing.TB) (*PDU, *[]bool) {
	t.Helper()
	var fed []bool
	return New(Config{Name: "p", Outlets: []Outlet{{Feed: func(on bool) { fed = append(fed, on) }}, {Label: "h-2 feed A"}}}), &fed
}

// TestSwitch: a SET switches the outlet, tells its feed of each change once, and is logged.
func TestSwitch(t *testing.T) {
	p, fed := rig(t)
	set := func(version int, o oid, v byte) int {
		return answer(t, p, ask(version, "private", tagSet, 0, 0, number(o, v))).first
	}
	control := outletControl.with(1)
	for _, c := range []struct {
		version, status int
		name            oid
		value           byte
		on              bool
	}{
		{version1, 0, control, stateOff, false},
		{version2c, 0, control, stateOff, false},
		{version2c, 0, control, stateOn, true},
		{version2c, 0, control, stateReboot, true},
		{version1, errBadValue, control, 9, true},
		{version2c, errWrongValue, control, 9, true},
		{version1, errNoSuchName, outletState.with(1), stateOff, true},
		{version2c, errNotWritable, outletState.with(1), stateOff, true},
		{version2c, errNotWritable, outletControl.with(3), stateOff, true},
	} {
		if got := set(c.version, c.name, c.value); got != c.status || p.On(1) != c.on {
			t.Errorf("set %v to %d: status %d, on %v; want %d, %v", c.name, c.value, got, p.On(1), c.status, c.on)
		}
	}
	if d := cmp.Diff([]bool{false, true, false, true}, *fed); d != "" {
		t.Errorf("feed (-want +got):\n%s", d)
	}
	var verbs []bmc.Verb
	for _, e := range p.Truth() {
		verbs = append(verbs, e.Verb)
	}
	if d := cmp.Diff([]bmc.Verb{"off", "off", "on", "cycle", "invalid", "invalid"}, verbs); d != "" {
		t.Errorf("truth (-want +got):\n%s", d)
	}
}

// TestRead: GET, GETNEXT and GETBULK see the tree in order; what is missing is told as
// each version does.
func TestRead(t *testing.T) {
	p, _ := rig(t)
	r := answer(t, p, ask(version1, "private", tagGet, 0, 0, named(outletState.with(2), outletName.with(2))...))
	if r.first != 0 || !bytes.Equal(r.values[0].body, []byte{stateOn}) || string(r.values[1].body) != "h-2 feed A" {
		t.Errorf("got %+v", r)
	}
	if r := answer(t, p, ask(version1, "private", tagGet, 0, 0, named(system.with(2, 0), outletState.with(3))...)); r.first != errNoSuchName || r.second != 2 {
		t.Errorf("a missing outlet in version 1: %+v", r)
	}
	if r := answer(t, p, ask(version2c, "private", tagGet, 0, 0, named(outletState.with(3))...)); r.values[0].tag != tagNoObject {
		t.Errorf("a missing outlet in version 2c: %+v", r)
	}
	var walked []oid
	for at := (oid{1, 3}); ; {
		r := answer(t, p, ask(version2c, "private", tagGetNext, 0, 0, named(at)...))
		if r.values[0].tag == tagEndOfView {
			break
		}
		at = r.names[0]
		walked = append(walked, at)
	}
	if len(walked) != 4+3*2 || !slices.IsSortedFunc(walked, slices.Compare[oid]) {
		t.Errorf("walked %v", walked)
	}
	r = answer(t, p, ask(version2c, "private", tagGetBulk, 1, 3, named(system, outletName)...))
	if want := []oid{system.with(1, 0), outletName.with(1), outletName.with(2), outletState.with(1)}; cmp.Diff(want, r.names) != "" {
		t.Errorf("bulk: %v, want %v", r.names, want)
	}
}

// TestSilence: strangers and a PDU without life get and give nothing.
func TestSilence(t *testing.T) {
	p, _ := rig(t)
	get := func(c string) []byte { return ask(version1, c, tagGet, 0, 0, named(outletState.with(1))...) }
	if p.Handle(from, get("public")) != nil || p.Handle(from, nil) != nil || p.Handle(from, get("private")[:20]) != nil {
		t.Error("answered a stranger")
	}
	if err := p.SetFaults(Faults{Mute: true}); err != nil || p.Handle(from, get("private")) != nil {
		t.Errorf("mute: %v", err)
	}
	if err := p.SetFaults(Faults{SayOff: true, SayOn: true}); err == nil {
		t.Error("took faults that contradict each other")
	}
	for _, f := range []Faults{{SayOff: true}, {SayOn: true}} {
		if err := p.SetFaults(f); err != nil {
			t.Fatal(err)
		}
		if r := answer(t, p, get("private")); (r.values[0].body[0] == stateOff) != f.SayOff {
			t.Errorf("%+v says %v", f, r.values[0])
		}
	}
	if err := p.SetFaults(Faults{IgnoreCommands: true}); err != nil {
		t.Fatal(err)
	}
	if r := answer(t, p, ask(version1, "private", tagSet, 0, 0, number(outletControl.with(1), stateOff))); r.first != 0 || !p.On(1) || p.Truth()[0].Outcome != bmc.Ignored {
		t.Errorf("ignoring: %+v, %v", r, p.Truth())
	}
}

// TestIntegers: what is put is taken, at the edges of the encoding.
func TestIntegers(t *testing.T) {
	for _, v := range []int{0, 1, 127, 128, 255, 256, 32767, 32768, 1<<31 - 1, -1, -128, -129, -1 << 31} {
		if got, rest, ok := takeInt(putInt(tagInteger, v)); got != v || len(rest) != 0 || !ok {
			t.Errorf("%d became %d, %v", v, got, ok)
		}
	}
	for _, o := range []oid{{1, 3}, {2, 999, 3}, {1, 3, 127, 128, 16383, 16384, 1<<32 - 1}} {
		body, _, _ := takeTag(putOID(o), tagOID)
		if got, ok := decodeOID(body); !ok || slices.Compare(got, o) != 0 {
			t.Errorf("%v became %v", o, got)
		}
	}
}

// FuzzHandle: whatever arrives, Handle does not panic and its answer is bounded; without
// the community nothing is answered or switched.
func FuzzHandle(f *testing.F) {
	f.Add(ask(version1, "private", tagGet, 0, 0, named(outletState.with(1))...))
	f.Add(ask(version2c, "private", tagGetBulk, 1, 20, named(system, outletName)...))
	f.Add(ask(version2c, "private", tagSet, 0, 0, number(outletControl.with(1), 2)))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		p, _ := rig(t)
		if out := p.Handle(from, datagram); len(out) > 64<<10 {
			t.Errorf("%d bytes of answer", len(out))
		}
		if !bytes.Contains(datagram, []byte("private")) && len(p.Truth()) != 0 {
			t.Error("switched without the community")
		}
	})
}
