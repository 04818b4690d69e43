// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

func TestMain(m *testing.M) {
	if err := os.Setenv("HOLDFAST_TEST_BMC", "pw"); err != nil { // of the BMCs of rig.host
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const (
	cluster  = "z/p/c"
	patience = time.Minute
)

// rig is a real etcd with workers in this process; agents are pings at their doors and
// power devices are simulated BMCs on loopback.
type rig struct {
	etcd      *etcdtest.Server
	client    *leases.Client
	endpoints []string      // of the workers
	ttl       time.Duration // of their leases
	bmcs      []*bmc.BMC
}

func newRig(t *testing.T) *rig {
	e := etcdtest.Start(t)
	return &rig{etcd: e, client: e.Client(t), endpoints: e.Endpoints(), ttl: minTTL}
}

// worker runs a worker until stop, or the end of the test.
func (r *rig) worker(t *testing.T, id string) (w *Worker, stop func()) {
	t.Helper()
	w, err := New(Options{ID: id, Etcd: r.endpoints, ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", LeaseTTL: r.ttl, InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	end := background(t, w.Run)
	stop = func() {
		end()
		w.atWork.mu.Lock()
		defer w.atWork.mu.Unlock()
		if n := len(w.atWork.all); n > 0 {
			t.Errorf("worker %s has ended, %d of its commanders are at work", id, n)
		}
	}
	t.Cleanup(stop)
	return w, stop
}

func background(t testing.TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx); close(done) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func (r *rig) put(t *testing.T, key string, val any) {
	t.Helper()
	if _, err := r.client.Commit(t.Context(), leases.Unowned(), leases.Put(key, val)); err != nil {
		t.Fatal(err)
	}
}

// read decodes a record; revision 0: there is none.
func read[T any](t *testing.T, r *rig, key string) (val T, rev int64) {
	t.Helper()
	kv, err := r.client.Get(t.Context(), key)
	if errors.Is(err, leases.ErrNotFound) {
		return val, 0
	}
	if err == nil {
		err = json.Unmarshal(kv.Value, &val)
	}
	if err != nil {
		t.Fatal(err)
	}
	return val, kv.ModRevision
}

// host declares a host, with a BMC of its own when wanted.
func (r *rig) host(t *testing.T, id string, withBMC bool) {
	t.Helper()
	spec := v1.HostSpec{V: 1, ID: id, Partition: cluster, Provider: "kvm", Pools: []string{"nfs1"}}
	if withBMC {
		b := bmc.New(bmc.Config{Name: id, Addr: "127.0.0.1:0", GUID: guidOf(id), Users: []bmc.User{{Name: "op", Password: "pw", Privilege: bmc.Operator}}})
		if err := b.Listen(); err != nil {
			t.Fatal(err)
		}
		background(t, b.Run)
		r.bmcs = append(r.bmcs, b)
		spec.Power = []v1.Device{{Name: "bmc", Driver: "ipmi", Address: b.Addr().String(), User: "op", Secret: "env:HOLDFAST_TEST_BMC"}}
	}
	r.put(t, leases.HostSpecKey(id), spec)
}

// guidOf is a system GUID of a host's own.
func guidOf(host string) [16]byte { return uuid.NewSHA1(uuid.NameSpaceDNS, []byte(host)) }

// beat lets the agents of hosts ping a worker until the test ends.
func beat(t *testing.T, w *Worker, hosts ...string) {
	background(t, func(ctx context.Context) error {
		for pause(ctx, 50*time.Millisecond) {
			for _, h := range hosts {
				report := &agentpb.Report{HypervisorOk: true, Pools: []*agentpb.PoolReport{{Id: "nfs1", State: agentpb.PoolReport_OK}}}
				(*door)(w).Ping(&link.Session{Host: h, Boot: "boot-" + h}, &agentpb.Ping{Report: report}, time.Now())
			}
		}
		return nil
	})
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); !cond(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (r *rig) events(t *testing.T, from int64) (out []string) {
	t.Helper()
	kvs, _, err := r.client.List(t.Context(), leases.EventsPrefix)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		var x v1.Event
		if err := json.Unmarshal(kv.Value, &x); err != nil {
			t.Fatal(err)
		}
		if kv.ModRevision > from {
			out = append(out, x.Type+" "+x.Host+" "+x.Message)
		}
	}
	return out
}

// ofWorkers: an event is about workers, not about hosts.
func ofWorkers(e string) bool {
	return strings.HasPrefix(e, "worker.") || strings.HasPrefix(e, "slots.")
}

// TestHandOffIsNoNews: a hand-off changes no state of a host and takes no partition down
// (ha.md §§2 and 3), even when all that is on record of the power tests is old because
// nothing had to be written since.
func TestHandOffIsNoNews(t *testing.T) {
	r := newRig(t)
	hosts := []string{"h1", "h2", "h3"}
	for _, h := range hosts {
		r.host(t, h, true)
	}
	a, stopA := r.worker(t, "w1")
	beat(t, a, hosts...)
	eventually(t, "all hosts are AVAILABLE", func() bool {
		for _, h := range hosts {
			if rec, _ := read[ha.Record](t, r, leases.HostHAKey(h)); rec.State != ha.Available {
				return false
			}
		}
		return true
	})
	stopA()
	for _, h := range hosts {
		rec, _ := read[powerRecord](t, r, leases.HostPowerKey(h))
		d := rec.Devices["bmc"]
		d.Tested = d.Tested.Add(-3 * time.Hour)
		rec.Devices["bmc"] = d
		r.put(t, leases.HostPowerKey(h), rec)
	}
	from, err := r.client.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, _ := r.worker(t, "w2")
	beat(t, b, hosts...)
	eventually(t, "the new owner sees everything for itself", func() bool {
		for _, h := range hosts {
			sees := false
			err := b.live(t.Context(), h, func(_ context.Context, o *owner) {
				tested, _ := o.powerTested()
				sees = tested && o.live.alive() && o.live.eligible == ha.Pass
			})
			if err != nil || !sees {
				return false
			}
		}
		return true
	})
	if got := slices.DeleteFunc(r.events(t, from), ofWorkers); len(got) > 0 {
		t.Errorf("the hand-off was news:\n%s", strings.Join(got, "\n"))
	}
}

// TestNothingStaysUnowned: a partition whose record was moved behind its owner's back,
// and a slot whose key was deleted, are taken up again.
func TestNothingStaysUnowned(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	r.host(t, "h2", false)
	w, _ := r.worker(t, "w1")
	members := func(n int) func() bool {
		return func() bool {
			rec, _ := read[ha.PartitionRecord](t, r, leases.PartitionStateKey(cluster))
			return rec.Members == n
		}
	}
	eventually(t, "the partition counts two members", members(2))

	rec, _ := read[ha.PartitionRecord](t, r, leases.PartitionStateKey(cluster))
	r.put(t, leases.PartitionStateKey(cluster), rec)
	r.host(t, "h3", false)
	eventually(t, "the partition counts the third member", members(3))

	if _, err := r.etcd.Raw(t).Delete(t.Context(), leases.SlotKey(w.slotOf(cluster, ""))); err != nil {
		t.Fatal(err)
	}
	r.host(t, "h4", false)
	eventually(t, "the slot is owned again and the partition counts the fourth member", members(4))
}

// loaded is an owner that does not run: the test is its goroutine. Nobody renews its lease.
func loaded(t *testing.T, r *rig, host string, ttl time.Duration) *owner {
	t.Helper()
	w, err := New(Options{ID: "w1", Etcd: r.endpoints, InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w.client, w.slotN = r.client, 1024
	w.mirror = r.client.NewMirror(mirrorPrefixes...)
	for _, p := range mirrorPrefixes {
		w.mirror.Subscribe(p, w.view.apply)
	}
	background(t, w.mirror.Run)
	s, err := r.client.OpenSession(t.Context(), leases.SessionConfig{Worker: "w1", Boot: "b", TTL: ttl, Record: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	claims, err := s.Claim(t.Context(), []int{w.slotOf(cluster, host)})
	if err != nil {
		t.Fatal(err)
	}
	caughtUp(t, w)
	return loadedBy(t, w, s, claims[0], host)
}

// loadedBy is loaded by a worker that holds the host's slot already.
func loadedBy(t *testing.T, w *Worker, s *leases.Session, c leases.Claim, host string) *owner {
	t.Helper()
	o := newOwner(w, s, c, host)
	ctx, stop := context.WithCancelCause(context.Background())
	o.jobs.init(ctx, stop)
	t.Cleanup(func() { stop(nil); o.jobs.wait(); o.endPlace() })
	if err := o.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return o
}

// caughtUp waits until the mirror shows what is in etcd now.
func caughtUp(t *testing.T, w *Worker) {
	t.Helper()
	rev, err := w.client.Revision(t.Context())
	if err == nil {
		err = w.mirror.WaitRevision(t.Context(), rev)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestPacketComparesDeclaration: an operator whose word is on record is never overtaken by
// a packet decided before it: the intent compares the host's declaration, and it is
// decided anew with what he said (ha.md §7.1).
func TestPacketComparesDeclaration(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	spec := o.spec.Val
	spec.Maintenance = true
	r.put(t, leases.HostSpecKey("h1"), spec)

	ev := ha.Event{Kind: ha.EvTxn, At: o.now(), Txn: &power.TxnEvent{Txn: "t", Seq: 1}}
	send := ha.Effect{Kind: ha.TxnDo, Txn: &power.TxnEffect{Txn: "t", Seq: 2, Do: power.DoSend, Verb: power.HardOff}}
	if o.commit(t.Context(), ev, o.rec, []ha.Effect{send}) {
		t.Fatal("a packet was put on record over a declaration that nobody had looked at")
	}
	if _, rev := read[intent](t, r, leases.OpsKey("h1")); rev != 0 {
		t.Error("there is an intent")
	}
	if o.jobs.ctx.Err() != nil || !o.rec.Admin.Maintenance {
		t.Errorf("the owner ended (%v) or does not know of the maintenance: %+v", context.Cause(o.jobs.ctx), o.rec.Admin)
	}
	msg, _ := o.in.take()
	if again, _ := msg.(ha.Event); again.Txn != ev.Txn {
		t.Errorf("got %+v next, want the same event again", msg)
	}
}

// TestArmingComparesSwitches: disarming that was acknowledged a moment before arming wins
// (ha.md §6: the last evaluation happens in the transaction that arms).
func TestArmingComparesSwitches(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	snap := o.snapshot(t.Context(), guard.Confirm, placeReady{})
	if !snap.Gathered || len(snap.Armed.Disarmed) > 0 {
		t.Fatalf("snapshot: %+v", snap)
	}
	r.put(t, leases.SettingKey("cluster/"+cluster, settingArmed), v1.SettingRecord{V: 1, Value: "false"})
	if o.commit(t.Context(), ha.Event{Kind: ha.EvPlace, At: snap.At, Snapshot: &snap}, o.rec, nil) {
		t.Error("armed over a disarming that was on record")
	}
	if o.place.waiting != guard.Confirm {
		t.Errorf("waits for %q, want to be asked again for %q", o.place.waiting, guard.Confirm)
	}
	// What is on record when a snapshot is taken is in it, however far the watch was behind.
	if snap = o.snapshot(t.Context(), guard.Confirm, placeReady{}); len(snap.Armed.Disarmed) == 0 {
		t.Error("the snapshot does not show the disarming")
	}
}

// TestOnWaitsThroughAChain: an owner that overwrote the intent of one whose packet may
// still come hands that on to the next, also to itself after it began anew; and an
// expired lease is never taken for an orderly end (leases.md §3.5).
func TestOnWaitsThroughAChain(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	var sessions time.Duration // may be open as long
	wait := func(left intent) time.Duration {
		t.Helper()
		r.put(t, leases.OpsKey("h1"), left)
		caughtUp(t, o.w)
		next := newOwner(o.w, o.s, o.claim, "h1")
		if err := next.load(t.Context()); err != nil {
			t.Fatal(err)
		}
		sessions = max(0, next.sessions.Sub(next.live.adopted))
		return next.policy.Fence.OnNotBefore.Sub(next.live.adopted)
	}
	for _, boot := range []string{o.s.Boot(), "released"} {
		if err := r.client.RecordEnd(t.Context(), "w1", "released", leases.Released, time.Time{}); err != nil {
			t.Fatal(err)
		}
		if got := wait(intent{V: 1, Worker: "w1", Boot: boot, OnNotBefore: time.Now().Add(10 * time.Second), Sessions: time.Now().Add(20 * time.Second)}); got < 9*time.Second || got > 10*time.Second || sessions < 19*time.Second || sessions > 20*time.Second {
			t.Errorf("after boot %q ON waits %v, and %v for sessions, want the 10s and 20s that it had to wait itself", boot, got, sessions)
		}
		if got := wait(intent{V: 1, Worker: "w1", Boot: boot}); got > 0 || sessions > 0 {
			t.Errorf("after boot %q ON waits %v, and %v for sessions, want 0", boot, got, sessions)
		}
	}
	if err := r.client.RecordEnd(t.Context(), "w1", "expired", leases.Expired, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got := wait(intent{V: 1, Worker: "w1", Boot: "expired"}); got != 15*time.Second || sessions != sessionIdle {
		t.Errorf("after an expired lease ON waits %v, and %v for sessions, want one command deadline and the idle time", got, sessions)
	}
	if got := wait(intent{V: 1, Worker: "w1", Boot: "unheard of"}); got != time.Minute+15*time.Second || sessions != time.Minute+sessionIdle {
		t.Errorf("after an owner without an end ON waits %v, and %v for sessions, want the same after a lease", got, sessions)
	}
}

// TestOnWaitsForSessions: while an earlier owner may have a session open, ON is not sent
// to a BMC that has another session, or does not tell; hard off is (leases.md §3.6).
func TestOnWaitsForSessions(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", true)
	o := loaded(t, r, "h1", time.Minute)
	targets, bad := o.targets()
	if len(bad) > 0 {
		t.Fatal(bad[0].err)
	}
	open := func() wpower.Conn {
		c, err := targets[0].driver.Open(t.Context(), targets[0].Target)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c, old := open(), open()
	defer closeConn(t.Context(), c)
	send := func(c wpower.Conn, v power.Verb) bool {
		var ev power.TxnEvent
		err := (&exchanger{o: o}).send(t.Context(), targets[0], c, &power.TxnEffect{Verb: v, NotAfter: time.Now().Add(time.Minute)}, &ev)
		if err != nil && (ev.Sent || wpower.KindOf(err) != power.Busy) {
			t.Errorf("%s: sent %v, %v", v, ev.Sent, err)
		}
		return ev.Sent
	}
	o.sessions = o.now().Add(time.Minute)
	if send(c, power.HardOn) || send(c, power.Cycle) || !send(c, power.HardOff) {
		t.Error("beside another session: want off sent, on and cycle not")
	}
	closeConn(t.Context(), old)
	if !send(c, power.HardOn) {
		t.Error("the other session is gone, and on is not sent")
	}
	shy := shyConn{c}
	if send(shy, power.HardOn) {
		t.Error("on is sent to a device that does not tell its sessions")
	}
	o.sessions = o.now()
	if !send(shy, power.HardOn) {
		t.Error("the time is over, and on is not sent")
	}
}

// shyConn is a device that refuses to list its sessions one by one.
type shyConn struct{ wpower.Conn }

func (shyConn) Sessions(context.Context) (wpower.SessionTable, error) {
	return wpower.SessionTable{Slots: 4, Active: 2}, nil
}

// stuckLog is a log whose reader does not read until the lease is over.
type stuckLog struct {
	slog.Handler
	s *leases.Session
}

func (stuckLog) Enabled(context.Context, slog.Level) bool { return true }

func (l stuckLog) Handle(ctx context.Context, _ slog.Record) error {
	for l.s.Valid(0) && pause(ctx, 10*time.Millisecond) {
	}
	return nil
}

// packetConn is a device that takes a command as one packet.
type packetConn struct {
	wpower.Conn
	packet func()
}

func (c packetConn) Do(_ context.Context, cmd wpower.Command) (power.Outcome, error) {
	if err := cmd.Before(); err != nil {
		return power.Rejected, err
	}
	c.packet()
	return power.Accepted, nil
}

// TestNoPacketAfterTheLease: the lease is asked right before each packet, with nothing in
// between that may block (leases.md §3.2).
func TestNoPacketAfterTheLease(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Second)
	o.log = slog.New(stuckLog{slog.DiscardHandler, o.s})
	packets := 0
	conn := packetConn{packet: func() {
		packets++
		if !o.s.Valid(0) {
			t.Error("a packet left after the end of the lease")
		}
	}}
	for _, want := range []int{1, 0} { // the log of the first outlasts the lease
		packets = 0
		var ev power.TxnEvent
		err := (&exchanger{o: o}).send(t.Context(), target{Target: wpower.Target{Limits: wpower.Limits{Packet: 100 * time.Millisecond}}}, conn, &power.TxnEffect{Verb: power.HardOff}, &ev)
		if packets != want || ev.Sent != (packets > 0) {
			t.Errorf("%d packets, sent %t, error %v", packets, ev.Sent, err)
		}
	}
}

// TestNoPacketBeyondTheRate: where the worker's rate of power commands is used up no packet
// leaves, and the command says so; none waits longer than it may.
func TestNoPacketBeyondTheRate(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	for _, burst := range []int{1, 0} {
		o.w.pools.powerRate.SetLimit(0)
		o.w.pools.powerRate.SetBurst(burst)
		packets := 0
		var ev power.TxnEvent
		err := (&exchanger{o: o}).send(t.Context(), target{}, packetConn{packet: func() { packets++ }}, &power.TxnEffect{Verb: power.HardOff}, &ev)
		if packets != burst || ev.Sent != (burst > 0) || (err == nil) != (burst > 0) {
			t.Errorf("with room for %d commands: %d packets, sent %t, error %v", burst, packets, ev.Sent, err)
		}
	}
}

// TestBusyIsNotFailed: a power test that could not be carried out does not take the last
// good one back; one that was answered with a refusal does.
func TestBusyIsNotFailed(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	for kind, want := range map[power.Kind]bool{power.Busy: true, power.SessionLimit: true, power.Timeout: true, power.AuthFailed: false} {
		devices := map[string]deviceRecord{"bmc": {Tested: o.now(), TestOK: true}}
		o.keepTest(devices, deviceReading{device: "bmc", tested: true, testErr: &wpower.Error{Kind: kind}}, o.now())
		if got := devices["bmc"].TestOK; got != want {
			t.Errorf("after %s the test counts as good: %t, want %t", kind, got, want)
		}
	}
}

// TestOrderOfOneWhoLeft: an order whose giver was told that it was not carried out is
// never carried out later.
func TestOrderOfOneWhoLeft(t *testing.T) {
	o := &owner{in: newMailbox()}
	o.jobs.init(context.WithCancelCause(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ran := false
	if err := o.call(ctx, func(context.Context) { ran = true }); err == nil {
		t.Error("got no error")
	}
	o.drain(t.Context())
	if ran {
		t.Error("it ran after all")
	}
}
