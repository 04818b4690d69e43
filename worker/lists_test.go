// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/lists"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
)

// Every host gets an index once some scope asks for roundrobin, one worker gives them, and
// those of hosts that are gone are given again.
func TestIndicesAreGiven(t *testing.T) {
	r := newRig(t)
	for _, h := range []string{"h1", "h2", "h3"} {
		r.host(t, h, false)
	}
	r.put(t, leases.SettingKey("zone/z", settingAlgorithm), v1.SettingRecord{V: 1, Value: string(lists.RoundRobin)})
	a, _ := r.worker(t, "w1")
	r.worker(t, "w2")
	given := func(want map[string]int) func() bool {
		return func() bool {
			a.view.mu.RLock()
			defer a.view.mu.RUnlock()
			return maps.Equal(a.view.indexOf, want)
		}
	}
	eventually(t, "three hosts have the first three indices", given(map[string]int{"h1": 0, "h2": 1, "h3": 2}))
	if _, err := r.client.Commit(t.Context(), leases.Unowned(), leases.Delete(leases.HostSpecKey("h2"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one is free again", given(map[string]int{"h1": 0, "h3": 2}))
	r.host(t, "h9", false)
	eventually(t, "it is given again", given(map[string]int{"h1": 0, "h9": 1, "h3": 2}))
}

// links/<host> of hosts that are gone are removed: with the host, and where an owner has
// written them since.
func TestLinksOfGoneHostsAreRemoved(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	r.put(t, leases.LinkKey("h1"), linkRecord{V: 1, Worker: "w9"})
	r.put(t, leases.LinkKey("long-gone"), linkRecord{V: 1, Worker: "w9"})
	a, _ := r.worker(t, "w1")
	there := func(host string) bool {
		_, rev := read[linkRecord](t, r, leases.LinkKey(host))
		return rev != 0
	}
	eventually(t, "that of a host that is not on record is gone", func() bool { return !there("long-gone") })
	if !there("h1") {
		t.Error("that of a host on record is gone too")
	}
	eventually(t, "the host can be removed", func() bool { return (*backend)(a).DeleteHost(t.Context(), "ann", "h1", -1) == nil })
	if there("h1") {
		t.Error("the removed host has left its link on record")
	}
}

// A worker that has not read, or not for long, who owns what says so, and nothing else. Once it has
// read it sends agents to an owner that it does not reach itself, if that one lives.
func TestBlindWorkerSaysSo(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	if _, err := r.client.OpenSession(t.Context(), leases.SessionConfig{Worker: "w2", Boot: "b", TTL: patience, Record: map[string]string{}}); err != nil {
		t.Fatal(err)
	}
	w, err := New(Options{ID: "w1", Etcd: r.endpoints, InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w.slotN, w.mirror = 1024, r.client.NewMirror(mirrorPrefixes...)
	for _, p := range mirrorPrefixes {
		w.mirror.Subscribe(p, w.view.apply)
	}
	hello := &agentpb.Hello{Host: "h1", BootId: "b1", ProcessId: "p1"}
	d := (*door)(w)
	answers := func() []agentpb.Refusal_Reason {
		out := []agentpb.Refusal_Reason{d.Hello(hello).Refusal.GetReason(), d.Standby(hello).GetReason()}
		for _, owner := range []string{"w2", "ended"} {
			out = append(out, d.Unreachable(link.Peer{ID: owner}, time.Now().Add(-time.Hour)).GetReason())
		}
		return out
	}
	blind := []agentpb.Refusal_Reason{agentpb.Refusal_BLIND, agentpb.Refusal_BLIND, agentpb.Refusal_BLIND, agentpb.Refusal_BLIND}
	if got := answers(); !slices.Equal(got, blind) {
		t.Errorf("before it has read: %v", got)
	}
	background(t, w.mirror.Run)
	sees := []agentpb.Refusal_Reason{agentpb.Refusal_NO_OWNER, agentpb.Refusal_UNSPECIFIED, agentpb.Refusal_NOT_OWNER, agentpb.Refusal_NO_OWNER}
	eventually(t, "it has read", func() bool { return slices.Equal(answers(), sees) })
	if why := blindFor(readAgeLimit + time.Second); !strings.Contains(why, "6s old") || blindFor(readAgeLimit) != "" {
		t.Errorf("a word of %v: %q", readAgeLimit+time.Second, why)
	}
}

// An agent that comes while its worker cannot tell who lives gets its list as soon as that is known.
func TestListThatWasWithheldIsSent(t *testing.T) {
	r := newRig(t)
	w, err := New(Options{ID: "w1", Etcd: r.endpoints, InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w.mirror = r.client.NewMirror(mirrorPrefixes...) // it has never read
	w.shown.put("h1", &published{owner: &owner{w: w, in: newMailbox()}, settings: &agentpb.Settings{}})
	a := (*door)(w).Hello(&agentpb.Hello{Host: "h1", BootId: "b1", ProcessId: "p1"})
	if a.Welcome == nil || a.Welcome.List != nil {
		t.Fatalf("got %+v, want a welcome without a list", a)
	}
	select {
	case <-w.lists.kick:
	default:
		t.Error("nobody sends the list later")
	}
	if _, more := w.sendLists(t.Context(), ""); !more {
		t.Error("lists are not looked at again while the worker is blind")
	}
}

// Lists are made of members: configured ones in their order, all where none of those is
// there; drained workers are on none at once, missing ones after the grace.
func TestListsAreMadeOfMembers(t *testing.T) {
	if got := strings.Join(configured("w3, w9,w1", []string{"w1", "w2", "w3"}), ","); got != "w3,w1" {
		t.Errorf("configured: %s", got)
	}
	if got := strings.Join(configured("w8", []string{"w1", "w2"}), ","); got != "w1,w2" {
		t.Errorf("configured but not there: %s", got)
	}
	v := newView(nil, nil)
	for _, id := range []string{"w1", "w2", "w3"} {
		v.workers[id] = versioned[v1.Worker]{1, v1.Worker{ID: id, Agents: id + ":1"}}
	}
	v.drains["w3"] = versioned[v1.Drain]{}
	l := newListing()
	t0 := time.Now()
	look := func(at time.Time) []string {
		l.look(v, at, time.Minute)
		members, _ := l.present()
		return members
	}
	if d := cmp.Diff([]string{"w1", "w2"}, look(t0)); d != "" {
		t.Errorf("drained (-want +got):\n%s", d)
	}
	delete(v.workers, "w2")
	v.ends["w2/b1"] = versioned[leases.EndRecord]{1, leases.EndRecord{At: t0.Add(-30 * time.Second)}}
	if d := cmp.Diff([]string{"w1", "w2"}, look(t0)); d != "" {
		t.Errorf("missing for half the grace (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"w1"}, look(t0.Add(31*time.Second))); d != "" {
		t.Errorf("missing for longer, counted from its end (-want +got):\n%s", d)
	}
	if _, addresses := l.present(); addresses["w2"] != "w2:1" {
		t.Errorf("addresses %v", addresses)
	}
}

// agents.md "Owner and link": the owner that cannot reach the carrier does not know; it
// never says fail before the agent has had time to link elsewhere. The same silence of an
// agent that is linked here is a failure before that.
func TestLostCarrierIsNoFailure(t *testing.T) {
	r := newRig(t)
	r.put(t, leases.SettingKey("global", "agent.ping.interval"), v1.SettingRecord{V: 1, Value: "1s"})
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	now := o.now()
	o.rec.State, o.rec.Health, o.rec.Partition, o.rec.Eligible = ha.Available, ha.Pass, ha.PartitionActive, ha.Pass
	o.rec.PowerTold, o.rec.Power = true, power.On
	o.live.lastPing = now
	o.handle(t.Context(), goneMsg{now, "w2"})
	if o.live.cut.IsZero() {
		t.Fatal("the owner has not taken note")
	}
	at := o.live.missAt(o.policy)
	if room, least := at.Sub(now), o.policy.Grace(); room <= least {
		t.Errorf("pings count as missed after %v, an agent has %v to link elsewhere", room, least)
	}
	if unheard := o.live.unheardAt(o.policy); !unheard.Equal(now.Add(3*time.Second)) || !unheard.Before(at) {
		t.Errorf("unknown after %v, missed after %v: want 3s and later", unheard.Sub(now), at.Sub(now))
	}
	o.onTime(t.Context(), at.Add(-time.Millisecond))
	if o.live.missing || o.rec.Health == ha.Fail || o.rec.State != ha.Available {
		t.Error("failed before the agent had time")
	}
	if u := o.rec.Unheard; u == nil || o.rec.Health != ha.Unknown || !strings.Contains(u.Reason, "worker w2") || len(o.rec.Holds()) != 1 {
		t.Errorf("health %q, holds %v: want it unknown, held by its carrier w2", o.rec.Health, o.rec.Holds())
	}
	if !o.live.unheardAt(o.policy).IsZero() {
		t.Error("unknown is told more than once")
	}
	o.heard(o.now(), "b")
	o.handle(t.Context(), ha.Event{Kind: ha.EvHealth, Verdict: ha.Pass})
	if !o.live.cut.IsZero() || o.rec.Unheard != nil || o.rec.Health != ha.Pass {
		t.Errorf("the cut outlives a ping: health %q, holds %v", o.rec.Health, o.rec.Holds())
	}
	// Without one the silence counts in the end, and says of whose it is.
	o.handle(t.Context(), goneMsg{o.now(), "w2"})
	end := o.live.missAt(o.policy)
	o.onTime(t.Context(), end)
	if o.rec.State != ha.Suspect || !strings.Contains(o.rec.Reason, "worker w2, which carried its link") {
		t.Errorf("%s: %s: want a suspect of whom its carrier is named", o.rec.State, o.rec.Reason)
	}
}

// A new owner finds on record who carries the link of a host: as long as it has not heard of
// that one nothing is known, not failed.
func TestAdoptedBehindAnotherCarrier(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	r.worker(t, "w2")
	r.put(t, leases.LinkKey("h1"), linkRecord{V: 1, Worker: "w2"})
	o := loaded(t, r, "h1", time.Minute)
	eventually(t, "the record of w2 and its link", func() bool {
		_, lives := o.w.view.worker("w2")
		_, linked := get(o.w.view, o.w.view.links, "h1")
		return lives && linked
	})
	o.adopt(t.Context())
	if o.live.carrier != "w2" || o.live.unheardAt(o.policy).IsZero() {
		t.Errorf("carrier %q, unknown from %v", o.live.carrier, o.live.unheardAt(o.policy))
	}
}

// links/<host> is on record only while another worker than the owner carries the link, also
// where etcd has forgotten what was written last, and where an older Hello is heard after a newer
// one.
func TestCarrierIsOnRecord(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	r.put(t, leases.SettingKey("global", "worker.rebalance.quiet"), v1.SettingRecord{V: 1, Value: "10m"}) // the owner stays
	workers := map[string]*Worker{}
	for _, id := range []string{"w1", "w2"} {
		w, err := New(Options{ID: id, Etcd: r.endpoints, ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", LeaseTTL: r.ttl, InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		w.carried.written = math.MaxInt64 // before etcd was restored: no copy ever comes to it
		background(t, w.Run)
		workers[id] = w
	}
	var owner, other *Worker
	eventually(t, "the host is owned, and both workers know each other", func() bool {
		for id, w := range workers {
			if o, _ := w.owned("h1"); o != nil {
				owner, other = w, workers[map[string]string{"w1": "w2", "w2": "w1"}[id]]
			}
		}
		if owner == nil {
			return false
		}
		s, _, held := other.view.slotOwner(other.slotOf(cluster, "h1"))
		_, lives := owner.view.worker(other.o.ID)
		return held && s.Worker == owner.o.ID && lives
	})
	onRecord := func(carrier string) {
		t.Helper()
		eventually(t, fmt.Sprintf("carried by %q", carrier), func() bool {
			rec, rev := read[linkRecord](t, r, leases.LinkKey("h1"))
			return rec.Worker == carrier && (rev == 0) == (carrier == "")
		})
	}
	if l := greet(t, owner, 1).GetWelcome().GetList(); l.GetAlgorithm() != "ring" || len(l.GetWorkers()) == 0 {
		t.Errorf("list %v", l)
	}
	onRecord("")
	greet(t, other, 3)
	onRecord(other.o.ID)
	greet(t, owner, 4)
	onRecord("")
	if r := greet(t, other, 2).GetRefusal(); r.GetReason() != agentpb.Refusal_REPLACED {
		t.Errorf("the older Hello got %v", r)
	}
	// A write from before, of which nobody heard, lands now.
	r.put(t, leases.LinkKey("h1"), linkRecord{V: 1, Worker: other.o.ID, Boot: "b2"})
	onRecord("")
}

// greet says Hello as the agent of h1, and returns the answer. The stream stays until the test ends.
func greet(t *testing.T, w *Worker, session uint64) *agentpb.Down {
	t.Helper()
	raw, err := net.Dial("tcp", w.agentsAddr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	if _, err := io.WriteString(raw, frame.Preface); err != nil {
		t.Fatal(err)
	}
	conn := frame.New(raw)
	if err := conn.Write(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: &agentpb.Hello{Host: "h1", BootId: "b1", ProcessId: "p1", Session: session}}}); err != nil {
		t.Fatal(err)
	}
	down := new(agentpb.Down)
	if _, err := conn.Read(down); err != nil {
		t.Fatal(err)
	}
	return down
}

// A session that ends because its carrier was lost is told apart from an agent that left.
func TestGoneTellsWhoWasLost(t *testing.T) {
	w := &Worker{owners: map[string]*owner{}}
	w.door = link.New("w1", (*door)(w), nil)
	o := &owner{w: w, in: newMailbox()}
	w.owners["h1"] = o
	w.shown.put("h1", &published{owner: o})
	for cause, want := range map[error]string{link.ErrCarrierLost: "w2", context.Canceled: "", errors.New("EOF"): ""} {
		(*door)(w).Gone(&link.Session{Host: "h1", Carrier: "w2"}, cause)
		msg, _ := o.in.take()
		if m, ok := msg.(goneMsg); !ok || m.lost != want {
			t.Errorf("%v: %+v, want lost %q", cause, msg, want)
		}
	}
	if hosts := slices.Collect(maps.Keys(w.owners)); len(hosts) != 1 {
		t.Errorf("owners %v", hosts)
	}
}
