// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"bytes"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	off byte = 0
	on  byte = 1
)

func (c *console) control(t *testing.T, action byte) byte {
	t.Helper()
	code, _, err := c.command(netFnChassis, 0x02, action)
	if err != nil {
		t.Fatalf("chassis control %d: %v", action, err)
	}
	return code
}

func (c *console) readings(t *testing.T, n int) []bool {
	t.Helper()
	var out []bool
	for range n {
		p, err := c.power()
		if err != nil {
			t.Fatalf("read power: %v", err)
		}
		out = append(out, p)
	}
	return out
}

// power.md §6.1, the column of behaviours: what a BMC says is not what its host does.
func TestLies(t *testing.T) {
	for _, tc := range []struct {
		name    string
		faults  Faults
		want    []bool // readings after an off
		power   bool
		outcome Outcome
	}{
		{"healthy", Faults{}, []bool{false, false}, false, Executed},
		{"accepts and does nothing", Faults{IgnoreCommands: true}, []bool{true, true}, true, Ignored},
		{"always says OFF", Faults{IgnoreCommands: true, SayOff: true}, []bool{false, false}, true, Ignored},
		{"always says ON", Faults{SayOn: true}, []bool{true, true}, false, Executed},
		{"OFF twice, then the truth", Faults{IgnoreCommands: true, OffReadings: 2}, []bool{false, false, true, true}, true, Ignored},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.set(t, tc.faults)
			c := r.in(t, 17, alice)
			if code := c.control(t, off); code != codeOK {
				t.Errorf("off: %02xh, want accepted", code)
			}
			if diff := cmp.Diff(tc.want, c.readings(t, len(tc.want))); diff != "" {
				t.Errorf("readings (-want +got):\n%s", diff)
			}
			log := r.Truth()
			if r.chassis.Power() != tc.power || len(log) != 1 || log[0].Outcome != tc.outcome || log[0].After != tc.power {
				t.Errorf("power %t, truth %+v; want power %t, %s", r.chassis.Power(), log, tc.power, tc.outcome)
			}
		})
	}
}

// power.md §6.1: "host powers itself on 4 s after off".
func TestSelfOn(t *testing.T) {
	r := newRig(t)
	r.set(t, Faults{SelfOnAfter: 4 * time.Second})
	c := r.in(t, 3, alice)
	c.control(t, off)
	if due := r.Tick(); !due.Equal(r.clock.t.Add(4 * time.Second)) {
		t.Errorf("Tick wants %s, want four seconds from now", due)
	}
	r.clock.pass(3 * time.Second)
	if r.Tick(); r.chassis.Power() {
		t.Error("on too early")
	}
	r.clock.pass(time.Second)
	if due := r.Tick(); !r.chassis.Power() || !due.IsZero() {
		t.Errorf("power %t, next %s; want on and nothing pending", r.chassis.Power(), due)
	}
	if log := r.Truth(); len(log) != 2 || log[1].Verb != VerbSelfOn || log[1].Session != 0 || !log[1].After {
		t.Errorf("truth %+v", log)
	}
	c.control(t, off)
	c.control(t, on) // a command overtakes what would have happened by itself
	if due := r.Tick(); !due.IsZero() {
		t.Errorf("an on left the self-on pending at %s", due)
	}
}

// power.md §7: the codes by which a BMC says "not now" or nothing useful.
func TestCodes(t *testing.T) {
	r := newRig(t)
	c := r.in(t, 17, alice)
	r.set(t, Faults{Busy: 2, BusyReads: 1})
	if code, _, _ := c.command(netFnChassis, 1); code != codeBusy {
		t.Errorf("busy read: %02xh", code)
	}
	for i, want := range []byte{codeBusy, codeBusy, codeOK} {
		if code := c.control(t, off); code != want {
			t.Errorf("off %d: %02xh, want %02xh", i, code, want)
		}
	}
	if f := r.Faults(); f.Busy != 0 || f.BusyReads != 0 {
		t.Errorf("counters left: %+v", f)
	}
	r.set(t, Faults{RejectSameState: true})
	if code := c.control(t, off); code != codeWrongState {
		t.Errorf("off when off: %02xh, want D5h", code)
	}
	r.set(t, Faults{Initialising: true})
	if code, body, _ := c.command(netFnChassis, 1); code != codeInitialising || len(body) != 0 {
		t.Errorf("status while initialising: %02xh % x", code, body)
	}
	if code := c.control(t, on); code != codeInitialising || r.chassis.Power() {
		t.Errorf("on while initialising: %02xh, power %t", code, r.chassis.Power())
	}
	r.set(t, Faults{EmptyBody: true})
	if code, body, _ := c.command(netFnChassis, 1); code != codeOK || len(body) != 0 {
		t.Errorf("empty status: %02xh % x", code, body)
	}
	r.set(t, Faults{NoSlots: true})
	if err := newConsole(r.BMC, 17, alice, Operator).open(); !errors.Is(err, status(statusNoResources)) {
		t.Errorf("log in without slots: %v", err)
	}
	r.set(t, Faults{Mute: true})
	if _, err := c.power(); !errors.Is(err, errSilence) {
		t.Errorf("a mute BMC answered: %v", err)
	}
	r.set(t, Faults{})
	if _, err := c.power(); err != nil {
		t.Errorf("after the repair: %v", err)
	}
}

// power.md §11.22: three failures lock the user; trying on extends the lock.
func TestLockout(t *testing.T) {
	r := newRig(t)
	r.set(t, Faults{LockoutAfter: 3, LockoutFor: 300 * time.Second})
	wrong := alice
	wrong.Password = "guess"
	for range 3 {
		c := newConsole(r.BMC, 17, wrong, Operator)
		if err := c.login(); !errors.Is(err, errWrongPassword) {
			t.Fatal(err)
		}
		c.setup(payloadRAKP3, append([]byte{0, statusBadIntegrity, 0, 0}, le32(c.bmcID)...))
	}
	try := func() error { return newConsole(r.BMC, 17, alice, Operator).login() }
	if err := try(); !errors.Is(err, status(statusUnknownName)) {
		t.Errorf("right password while locked: %v", err)
	}
	r.clock.pass(200 * time.Second)
	if err := try(); err == nil {
		t.Error("not locked after 200 s")
	}
	r.clock.pass(200 * time.Second)
	if err := try(); err == nil {
		t.Error("the attempt did not extend the lock")
	}
	r.clock.pass(301 * time.Second)
	if err := try(); err != nil {
		t.Errorf("still locked after five quiet minutes: %v", err)
	}
}

// power.md §11.14-17: every hostile datagram is of its kind, goes before the true
// answer, and carries nothing that verifies as an answer to the request.
func TestHostileDatagrams(t *testing.T) {
	for name, f := range map[string]Faults{
		"forged": {Forged: 6}, "short": {Short: 50}, "bad padding": {BadPadding: 50},
		"garbage": {Garbage: 50}, "replayed": {Replayed: 50},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c := r.in(t, 17, alice)
			c.readings(t, 10) // something to replay
			r.set(t, f)
			answers, _ := r.Handle(c.from, c.packet(netFnChassis, 1))
			if want := f.Forged + f.Short + f.BadPadding + f.Garbage + f.Replayed + 1; len(answers) != want {
				t.Fatalf("%d datagrams, want %d", len(answers), want)
			}
			for _, a := range answers[:len(answers)-1] {
				if len(a) < 4 {
					continue
				}
				if k, ok := parsePacket(a[4:]); ok && k.session == c.id {
					if _, _, err := c.read(a, netFnChassis, 1); err == nil {
						t.Errorf("a hostile datagram verifies: % x", a)
					}
				} else if f.Forged > 0 && (!ok || !bytes.Contains(a, []byte{c.rqSeq << 2, 0x01, 0x00, 0x20})) {
					t.Errorf("forged datagram does not say OFF to the request: % x", a)
				}
			}
			if code, data, err := c.read(answers[len(answers)-1], netFnChassis, 1); err != nil || code != 0 || data[0]&1 != 1 {
				t.Errorf("true answer behind them: %02xh % x %v", code, data, err)
			}
			r.set(t, Faults{LoseAnswers: 100, Garbage: 3})
			if answers, _ := r.Handle(c.from, c.packet(netFnChassis, 1)); len(answers) != 3 {
				t.Errorf("%d datagrams with the answer lost, want the 3 hostile ones", len(answers))
			}
		})
	}
}

// power.md §11.15, §11.18, §11.19.
func TestWrongIntegrityDowngradeAndOtherGUID(t *testing.T) {
	r := newRig(t)
	c := r.in(t, 3, alice)
	r.set(t, Faults{WrongIntegrity: true})
	if _, err := c.power(); err == nil || errors.Is(err, errSilence) {
		t.Errorf("answer with a wrong integrity code: %v", err)
	}

	r.set(t, Faults{Downgrade: true})
	weak := newConsole(r.BMC, 17, alice, Operator)
	if err := weak.login(); err != nil || weak.suite.integrity != 0 || weak.suite.conf != 0 {
		t.Fatalf("log in with what was answered: %v, %+v", err, weak.suite)
	}
	if p, err := weak.power(); err != nil || !p {
		t.Errorf("a careless client is not served: %t, %v", p, err)
	}

	r.set(t, Faults{OtherGUID: true})
	o := r.in(t, 17, alice)
	_, guid, _ := o.command(netFnApp, 0x37)
	if bytes.Equal(guid, r.cfg.GUID[:]) || !bytes.Equal(guid, o.guid) {
		t.Errorf("GUID % x and in RAKP % x, want the same other one", guid, o.guid)
	}
}

// Losses, duplicates and jitter follow from the seed and the requests alone.
func TestSeedDecides(t *testing.T) {
	ping := []byte{6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 1, 0, 0}
	run := func(seed uint64) (pattern []int) {
		r := newRig(t, func(c *Config, _ *ChassisConfig) { c.Seed = seed })
		r.set(t, Faults{LoseRequests: 20, LoseAnswers: 20, DuplicateAnswers: 30, Delay: time.Second, Jitter: time.Second})
		for range 1000 {
			answers, delay := r.Handle(newConsole(r.BMC, 3, alice, 4).from, ping)
			if len(answers) > 0 && (delay < time.Second || delay >= 2*time.Second) {
				t.Fatalf("delay %s, want 1 s to 2 s", delay)
			}
			pattern = append(pattern, len(answers), int(delay))
		}
		return pattern
	}
	first := run(1)
	if diff := cmp.Diff(first, run(1)); diff != "" {
		t.Errorf("the same seed differs:\n%s", diff)
	}
	if cmp.Equal(first, run(2)) {
		t.Error("another seed gives the same pattern")
	}
	counts := map[int]int{}
	for i := 0; i < len(first); i += 2 {
		counts[first[i]]++
	}
	if counts[0] < 300 || counts[0] > 420 || counts[2] < 140 || counts[2] > 250 {
		t.Errorf("of 1000: %d lost (want about 360), %d twice (want about 190)", counts[0], counts[2])
	}
}

// Faults out of bounds are refused by name, and the present ones stay.
func TestBadFaults(t *testing.T) {
	r := newRig(t)
	r.set(t, Faults{Mute: true})
	for want, f := range map[string]Faults{
		"set faults: lose_answers is 101, allowed is 0 to 100":                {LoseAnswers: 101},
		"set faults: garbage is 1001, allowed is 0 to 1000":                   {Garbage: 1001},
		"set faults: delay is -1ns, allowed is 0 to 1h":                       {Delay: -1},
		"set faults: say_off and say_on are both set, allowed is one of them": {SayOff: true, SayOn: true},
	} {
		if err := r.SetFaults(f); err == nil || err.Error() != want {
			t.Errorf("SetFaults: %v, want %s", err, want)
		}
	}
	if !r.Faults().Mute {
		t.Error("a refused setting changed the faults")
	}
	text, err := json.Marshal(Faults{Mute: true, Delay: time.Second})
	if err != nil || string(text) != `{"mute":true,"delay":1000000000}` {
		t.Errorf("JSON %s, %v", text, err)
	}
}

// The model chassis takes its time, and a hard off overtakes a pending on.
func TestModelChassis(t *testing.T) {
	clock := newClock()
	c := NewChassis(ChassisConfig{On: true, OffLatency: 4 * time.Second, OnLatency: 6 * time.Second, CycleGap: time.Second, SoftLatency: -1, Now: clock.now})
	expect := func(what string, after time.Duration, want bool) {
		t.Helper()
		clock.pass(after)
		if c.Power() != want {
			t.Errorf("%s: power %t, want %t", what, !want, want)
		}
	}
	c.SoftOff()
	expect("a hung host ignores soft off", time.Hour, true)
	c.SetPower(false)
	expect("off under way", 3*time.Second, true)
	expect("off done", time.Second, false)
	c.SetPower(true)
	expect("on under way", 5*time.Second, false)
	c.SetPower(false)
	expect("off overtook the on", time.Hour, false)
	c.Force(true)
	expect("a technician", 0, true)
	c.Cycle()
	expect("cycle, off phase", 4*time.Second, false)
	expect("cycle, gap", 6*time.Second, false)
	expect("cycle done", time.Second, true)
}

// Another process can check the log: JSON lines, and an error is not forgotten.
func TestTruthWriter(t *testing.T) {
	var out bytes.Buffer
	w := NewTruthWriter(&out)
	r := newRig(t, func(c *Config, _ *ChassisConfig) { c.OnCommand = w.Record })
	c := r.in(t, 17, alice)
	c.control(t, off)
	c.control(t, on)
	var got []Entry
	for d := json.NewDecoder(&out); d.More(); {
		var e Entry
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if diff := cmp.Diff(r.Truth(), got); diff != "" || len(got) != 2 || w.Err() != nil {
		t.Errorf("JSON lines differ from the log (%v):\n%s", w.Err(), diff)
	}
	broken := NewTruthWriter(full{})
	broken.Record(Entry{})
	if broken.Err() == nil {
		t.Error("a full disk was not noticed")
	}
}

// meddler is a chassis that changes its BMC from inside a command, as a host does
// that takes its own BMC down.
type meddler struct {
	*ModelChassis
	b *BMC
}

func (m *meddler) SetPower(on bool) {
	m.ModelChassis.SetPower(on)
	m.b.Restart()
	_ = m.b.SetFaults(Faults{Jitter: time.Duration(len(m.b.Truth()))}) // within bounds
}

// Handle, the controls and the chassis may meet in any order (run with -race).
func TestConcurrentUse(t *testing.T) {
	m := &meddler{ModelChassis: NewChassis(ChassisConfig{On: true})}
	m.b = New(Config{Chassis: m, Users: []User{alice}, Slots: 64})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 30 {
				c := newConsole(m.b, 3+14*(i%2), alice, Administrator)
				c.id += uint32(i)
				if c.login() != nil {
					continue // a neighbour's command restarted the BMC
				}
				_, _, _ = c.command(netFnChassis, 0x02, byte(i%2))
				m.b.Tick()
			}
		})
	}
	all.Go(func() {
		for range 100 {
			_, _ = m.b.Sessions()
			_ = m.b.Faults()
			_ = m.b.SetUsers([]User{alice})
			_ = m.b.Reads()
		}
	})
	all.Wait()
	n := m.Counts()
	if log := m.b.Truth(); len(log) != n.On+n.Off || len(log) == 0 {
		t.Errorf("%d entries for %d commands", len(log), n.On+n.Off)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }
