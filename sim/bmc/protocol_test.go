// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// power.md §5: suites 3 and 17 read and control; every command is in the truth log.
func TestChassisInSession(t *testing.T) {
	for _, suiteID := range []int{3, 17} {
		t.Run(fmt.Sprint("suite ", suiteID), func(t *testing.T) {
			r := newRig(t)
			c := r.in(t, suiteID, alice)
			type want struct {
				action byte
				verb   Verb
				code   byte
				after  bool
			}
			for _, w := range []want{
				{2, VerbCycle, codeOK, true}, {3, VerbReset, codeOK, true}, {4, VerbDiag, codeOK, true},
				{0, VerbOff, codeOK, false}, {0, VerbOff, codeOK, false}, {2, VerbCycle, codeWrongState, false},
				{3, VerbReset, codeWrongState, false}, {5, VerbSoft, codeWrongState, false},
				{1, VerbOn, codeOK, true}, {5, VerbSoft, codeOK, false}, {9, VerbInvalid, codeBadField, false},
			} {
				code, _, err := c.command(netFnChassis, 0x02, w.action)
				if err != nil || code != w.code {
					t.Fatalf("%s: code %02xh, %v; want %02xh", w.verb, code, err, w.code)
				}
				on, err := c.power()
				if err != nil || on != w.after {
					t.Fatalf("after %s: power %t, %v; want %t", w.verb, on, err, w.after)
				}
				log := r.Truth()
				got := log[len(log)-1]
				if got.Verb != w.verb || got.After != w.after || got.Code != w.code || (got.Outcome == Executed) != (w.code == codeOK) {
					t.Errorf("truth of %s: %+v", w.verb, got)
				}
				if got.Session != c.bmcID || got.User != "alice" || got.Privilege != Administrator || got.Remote != c.from.String() || got.BMC != "bmc-1" {
					t.Errorf("truth of %s names the wrong sender: %+v", w.verb, got)
				}
			}
			if r.Reads() != 11 || len(r.Truth()) != 11 {
				t.Errorf("reads %d, commands %d, want 11 and 11", r.Reads(), len(r.Truth()))
			}
			want1 := Counts{On: 1, Off: 2, Cycle: 1, Reset: 1, Soft: 1, Diag: 1}
			if diff := cmp.Diff(want1, r.chassis.Counts()); diff != "" {
				t.Errorf("chassis was asked for (-want +got):\n%s", diff)
			}
		})
	}
}

// power.md §7, §11.24: a USER reads, and is told D4h for every command.
func TestPrivileges(t *testing.T) {
	r := newRig(t)
	u := r.in(t, 17, User{"ursula", "us", UserLevel})
	if on, err := u.power(); err != nil || !on {
		t.Fatalf("a user reads %t, %v", on, err)
	}
	for _, cmd := range []byte{0x02, 0x04} {
		if code, _, err := u.command(netFnChassis, cmd, 0); err != nil || code != codeNoPrivilege {
			t.Errorf("command %02xh of a user: %02xh, %v; want D4h", cmd, code, err)
		}
	}
	if code, _, _ := u.command(netFnApp, 0x3b, byte(Operator)); code != codePrivTooHigh {
		t.Errorf("a user raises his level: %02xh, want 81h", code)
	}
	if log := r.Truth(); len(log) != 2 || log[0].Outcome != Refused || log[0].Code != codeNoPrivilege || log[1].Verb != VerbIdentify {
		t.Errorf("truth of the refused commands: %+v", log)
	}
	if n := r.chassis.Counts(); n != (Counts{}) {
		t.Errorf("refused commands reached the chassis: %+v", n)
	}

	o := newConsole(r.BMC, 17, User{"oscar", "op", Operator}, Operator)
	for _, step := range []func() error{o.open, o.rakp1, o.rakp3} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if code, _, _ := o.command(netFnChassis, 0x02, 0); code != codeNoPrivilege {
		t.Errorf("off before Set Session Privilege Level: %02xh, want D4h: sessions start as USER", code)
	}
	if code, _, _ := o.command(netFnApp, 0x3b, byte(Operator)); code != codeOK {
		t.Errorf("raise to operator: %02xh", code)
	}
	if code, _, _ := o.command(netFnChassis, 0x02, 0); code != codeOK || r.chassis.Power() {
		t.Errorf("off by an operator: %02xh, power %t", code, r.chassis.Power())
	}
}

// power.md §7: which status tells a client what went wrong in session setup.
func TestSetupRefusals(t *testing.T) {
	bad := func(u User, change func(*User)) User { change(&u); return u }
	for _, tc := range []struct {
		name  string
		suite suite
		user  User
		role  Privilege
		want  error
	}{
		{"suite 0", suite{0, 0, 0, 0}, alice, Administrator, status(statusNoSuiteMatch)},
		{"suite 2", suite{2, 1, 1, 0}, alice, Administrator, status(statusNoSuiteMatch)},
		{"suite 8", suite{8, 2, 2, 1}, alice, Administrator, status(statusNoSuiteMatch)},
		{"mixed 3 and 17", suite{0, 3, 1, 1}, alice, Administrator, status(statusNoSuiteMatch)},
		{"unknown user", suites[3], bad(alice, func(u *User) { u.Name = "mallory" }), Operator, status(statusUnknownName)},
		{"long name", suites[3], bad(alice, func(u *User) { u.Name = "12345678901234567" }), Operator, status(statusBadNameLength)},
		{"role above the user's", suites[6], User{"ursula", "us", UserLevel}, Administrator, status(statusRoleRefused)},
		{"role 0", suites[6], alice, 0, status(statusInvalidRole)},
		{"role 5", suites[6], alice, 5, status(statusInvalidRole)},
		{"wrong password", suites[3], bad(alice, func(u *User) { u.Password = "s3creT" }), Operator, errWrongPassword},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			c := newConsole(r.BMC, 3, tc.user, tc.role)
			c.suite = tc.suite
			if err := c.login(); !errors.Is(err, tc.want) {
				t.Fatalf("log in: %v, want %v", err, tc.want)
			}
			_, halfOpen := r.Sessions()
			if tc.want == errWrongPassword {
				// Only the client knows at this point, and its RAKP 3 settles it.
				if halfOpen != 1 {
					t.Errorf("%d half-open sessions, want the one", halfOpen)
				}
				if err := c.rakp3(); !errors.Is(err, status(statusBadIntegrity)) {
					t.Errorf("RAKP 3 with a wrong code: %v, want 0Fh", err)
				}
				_, halfOpen = r.Sessions()
			}
			if halfOpen != 0 {
				t.Errorf("%d half-open sessions left", halfOpen)
			}
		})
	}
}

// power.md §3 defect 8: a RAKP 3 with status 0Fh frees the slot, and is not answered.
func TestAbortFreesSlot(t *testing.T) {
	r := newRig(t)
	c := newConsole(r.BMC, 17, alice, Operator)
	if err := errors.Join(c.open(), c.rakp1()); err != nil {
		t.Fatal(err)
	}
	abort := append([]byte{0, statusBadIntegrity, 0, 0}, le32(c.bmcID)...)
	if _, err := c.setup(payloadRAKP3, abort); !errors.Is(err, errSilence) {
		t.Errorf("abort was answered: %v", err)
	}
	if live, half := r.Sessions(); live+half != 0 {
		t.Errorf("%d sessions, %d half-open after the abort", live, half)
	}
}

// power.md §11.23: the fifth session is refused with 01h until one closes or falls silent.
func TestSlots(t *testing.T) {
	r := newRig(t)
	var all []*console
	for range 4 {
		all = append(all, r.in(t, 3, alice))
	}
	extra := newConsole(r.BMC, 3, alice, Operator)
	if err := extra.open(); !errors.Is(err, status(statusNoResources)) {
		t.Fatalf("fifth session: %v, want 01h", err)
	}
	if code, _, err := all[1].command(netFnApp, 0x3c, le32(all[1].bmcID)...); err != nil || code != codeOK {
		t.Fatalf("close: %02xh, %v", code, err)
	}
	if _, err := all[1].power(); !errors.Is(err, errSilence) {
		t.Errorf("a closed session still answers: %v", err)
	}
	if err := extra.login(); err != nil {
		t.Fatalf("log in after a slot was freed: %v", err)
	}
	r.clock.pass(40 * time.Second)
	if _, err := all[0].power(); err != nil {
		t.Fatal(err)
	}
	r.clock.pass(40 * time.Second)
	if live, _ := r.Sessions(); live != 1 {
		t.Errorf("%d sessions after the time-out, want the one that was used", live)
	}
	if _, err := all[2].power(); !errors.Is(err, errSilence) {
		t.Errorf("a timed-out session still answers: %v", err)
	}
}

// leases.md §3.6: the session list shows whose sessions are open, and only an
// administrator closes another's.
func TestSessionInfo(t *testing.T) {
	r := newRig(t)
	a, u := r.in(t, 17, alice), r.in(t, 3, User{"ursula", "us", UserLevel})
	for _, ask := range [][]byte{{0x02}, append([]byte{0xff}, le32(u.bmcID)...), {0xfe, 2}} {
		code, info, err := a.command(netFnApp, 0x3d, ask...)
		want := append([]byte{2, 4, 2, 4, byte(UserLevel), 0x11, 127, 0, 0, 9, 0, 0, 0, 0, 0, 0}, 0xa0, 0x0f)
		if err != nil || code != codeOK || !bytes.Equal(info, want) {
			t.Errorf("session info % x: %02xh % x %v, want % x", ask, code, info, err, want)
		}
	}
	if _, info, _ := u.command(netFnApp, 0x3d, 0); len(info) != 18 || info[0] != 2 {
		t.Errorf("own session: % x", info)
	}
	if _, info, _ := a.command(netFnApp, 0x3d, 3); !bytes.Equal(info, []byte{0, 4, 2}) {
		t.Errorf("no third session: % x, want the counts alone", info)
	}
	if code, _, _ := u.command(netFnApp, 0x3c, le32(a.bmcID)...); code != codeNoPrivilege {
		t.Errorf("a user closes the administrator's session: %02xh", code)
	}
	if code, _, _ := a.command(netFnApp, 0x3c, le32(12345)...); code != codeUnknownSession {
		t.Errorf("close of no session: %02xh", code)
	}
	if code, _, _ := a.command(netFnApp, 0x3c, 0, 0, 0, 0, 2); code != codeOK {
		t.Errorf("close by handle: %02xh", code)
	}
	if live, _ := r.Sessions(); live != 1 {
		t.Errorf("%d sessions left, want 1", live)
	}
}

// The second try of a lost answer gets the same answer and takes no second slot.
func TestSetupRetransmissions(t *testing.T) {
	r := newRig(t)
	c := newConsole(r.BMC, 3, alice, Administrator)
	for _, step := range []func() error{c.open, c.rakp1, c.rakp3} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		first := r.history[len(r.history)-1]
		for range 3 {
			again, err := c.ask(c.lastSent)
			if err != nil || !bytes.Equal(again, first) {
				t.Fatalf("retransmission answered % x, %v; want % x", again, err, first)
			}
		}
	}
	if live, half := r.Sessions(); live != 1 || half != 0 {
		t.Errorf("%d sessions, %d half-open, want 1 and 0", live, half)
	}
	if _, err := c.power(); err != nil {
		t.Error(err)
	}

	r.set(t, Faults{OrphanOpens: true}) // power.md §4: what many real BMCs do
	for range 3 {
		if err := newConsole(r.BMC, 3, alice, Administrator).open(); err != nil {
			t.Fatal(err)
		}
	}
	if err := newConsole(r.BMC, 3, alice, Administrator).open(); !errors.Is(err, status(statusNoResources)) {
		t.Errorf("orphans did not fill the table: %v", err)
	}
}

// power.md §3 defect 6: a packet that repeats its sequence number is dropped, so a
// command runs at most once a packet.
func TestRepeatedPacketRunsOnce(t *testing.T) {
	r := newRig(t)
	c := r.in(t, 17, alice)
	p := c.packet(netFnChassis, 0x02, 3)
	if _, err := c.ask(p); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ask(p); !errors.Is(err, errSilence) {
		t.Errorf("the repeated packet was answered: %v", err)
	}
	if n := r.chassis.Counts().Reset; n != 1 {
		t.Errorf("%d resets, want 1", n)
	}
}

// The window takes each number once, 15 ahead and 16 behind, across the wrap, and
// nothing from before its start.
func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		high := rapid.SampledFrom([]uint32{0, 1 << 31, ^uint32(0) - 20}).Draw(t, "start")
		w := window{high: high, seen: ^uint32(0)}
		used := map[uint32]bool{}
		for back := range uint32(100) {
			used[high-back] = true
		}
		for _, step := range rapid.SliceOfN(rapid.IntRange(-40, 40), 1, 200).Draw(t, "steps") {
			seq := high + uint32(int32(step))
			want := seq != 0 && !used[seq] && step <= 15 && step >= -16
			if got := w.accept(seq); got != want {
				t.Fatalf("accept(%d) with highest %d is %t, want %t", seq, high, got, want)
			}
			if want {
				used[seq] = true
				if step > 0 {
					high = seq
				}
			}
		}
	})
}

// A request that does not verify is dropped, never answered and never executed.
func TestForgedRequestsAreDropped(t *testing.T) {
	for _, suiteID := range []int{3, 17} {
		r := newRig(t)
		c := r.in(t, suiteID, alice)
		plain := request(netFnChassis, 0x02, 9, 0)
		body := c.s.encrypt(append(bytes.Clone(plain), 1, 2, 3, 4, 5, 6, 7, 7))
		unsigned := append(header(flagEncrypted, c.bmcID, 50, len(body)), body...)
		for name, p := range map[string][]byte{
			"plaintext in the session":  append(header(0, c.bmcID, 5, len(plain)), plain...),
			"plaintext outside":         plainPlus(0, plain),
			"plaintext of IPMI 1.5":     plainV15(plain),
			"encrypted and not signed":  unsigned,
			"sequence number zero":      func() []byte { c.s.out = ^uint32(0) - 1; c.s.frame(nil); p := c.packet(0, 2, 0); return p }(),
			"sequence number far ahead": func() []byte { c.s.out += 1000; return c.packet(0, 2, 0) }(),
		} {
			c.ask(p)
			if !r.chassis.Power() {
				t.Fatalf("suite %d: %s switched the host off", suiteID, name)
			}
		}
		c.s.out = 40 - 30 // back inside the window
		good := c.packet(netFnChassis, 0x02, 0)
		for i := len(rmcpIPMI); i < len(good); i++ {
			bent := bytes.Clone(good)
			bent[i] ^= 0x10
			if _, err := c.ask(bent); !errors.Is(err, errSilence) {
				t.Fatalf("suite %d: byte %d changed and still answered", suiteID, i)
			}
		}
		if !r.chassis.Power() || len(r.Truth()) != 0 {
			t.Fatal("a changed packet was executed")
		}
		if _, err := c.ask(good); err != nil || r.chassis.Power() {
			t.Errorf("suite %d: the unchanged packet was not executed: %v", suiteID, err)
		}
	}
}

// Before log-in: presence ping, capabilities in both wrappings, cipher suites; no more.
func TestOutsideSession(t *testing.T) {
	r := newRig(t)
	c := newConsole(r.BMC, 3, alice, Administrator)
	ping := []byte{0x06, 0x00, 0xff, 0x06, 0x00, 0x00, 0x11, 0xbe, 0x80, 0x42, 0x00, 0x00}
	out, err := c.ask(ping)
	if err != nil || len(out) != 28 || out[8] != 0x40 || out[9] != 0x42 || out[20] != 0x81 {
		t.Errorf("pong: % x, %v", out, err)
	}
	for name, wrap := range map[string]func([]byte) []byte{
		"1.5": plainV15, "2.0": func(m []byte) []byte { return plainPlus(0, m) },
	} {
		for _, tc := range []struct {
			cmd        byte
			data, want []byte
		}{
			{0x38, []byte{0x8e, 4}, []byte{0, 1, 0x80, 4, 2, 0, 0, 0, 0}},
			{0x38, []byte{0x83, 4}, []byte{codeBadField}},
			{0x38, []byte{0x8e}, []byte{codeBadLength}},
			{0x54, []byte{0x0e, 0, 0x80}, []byte{0, 1, 0xc0, 3, 1, 0x41, 0x81, 0xc0, 17, 3, 0x44, 0x81}},
			{0x54, []byte{0x0e, 0, 0x81}, []byte{0, 1}},
			{0x37, nil, append([]byte{0}, r.cfg.GUID[:]...)},
			{0x01, nil, []byte{codeNoPrivilege}},
		} {
			out, err := c.ask(wrap(request(netFnApp, tc.cmd, 1, tc.data...)))
			if err != nil {
				t.Fatal(err)
			}
			k, _ := parsePacket(out[4:])
			if got := k.body[6 : len(k.body)-1]; !bytes.Equal(got, tc.want) || checksum(k.body[3:]) != 0 {
				t.Errorf("%s, command %02xh: % x, want % x", name, tc.cmd, got, tc.want)
			}
		}
		if out, err := c.ask(wrap(request(netFnChassis, 0x02, 1, 0))); err == nil {
			if k, _ := parsePacket(out[4:]); k.body[6] != codeNoPrivilege || !r.chassis.Power() {
				t.Errorf("off without a session: % x", out)
			}
		}
	}
}

// power.md §11.27: a new password holds from the next session on.
func TestPasswordRotation(t *testing.T) {
	r := newRig(t)
	c := r.in(t, 17, alice)
	changed := alice
	changed.Password = "n3w"
	if err := r.SetUsers([]User{changed}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.power(); err != nil {
		t.Errorf("the open session ended: %v", err)
	}
	if err := newConsole(r.BMC, 17, alice, Operator).login(); !errors.Is(err, errWrongPassword) {
		t.Errorf("old password: %v", err)
	}
	r.in(t, 17, changed)
}

// A BMC whose own power came back knows no session.
func TestRestart(t *testing.T) {
	r := newRig(t)
	c := r.in(t, 17, alice)
	r.Restart()
	if _, err := c.power(); !errors.Is(err, errSilence) {
		t.Errorf("a session outlived the restart: %v", err)
	}
	if live, half := r.Sessions(); live+half != 0 {
		t.Errorf("%d sessions, %d half-open after a restart", live, half)
	}
}

// Bad configuration is told by field, value and what is allowed.
func TestBadConfig(t *testing.T) {
	for want, cfg := range map[string]Config{
		`listen bmc x: user "u": password has 21 bytes, allowed is up to 20`: {Users: []User{{"u", "123456789012345678901", Operator}}},
		`listen bmc x: user "u": privilege is 5, allowed is 2 to 4`:          {Users: []User{{"u", "", 5}}},
		`listen bmc x: user "u": name is there twice`:                        {Users: []User{{"u", "", 4}, {"u", "", 4}}},
		`listen bmc x: slots is 300, allowed is 1 to 255`:                    {Slots: 300},
		`listen bmc x: suites has 4, allowed are 0 to 3 and 15 to 17`:        {Suites: []int{4}},
		`listen bmc x: addr is "localhost", allowed is ip:port`:              {Addr: "localhost"},
	} {
		cfg.Name = "x"
		if err := New(cfg).Listen(); err == nil || err.Error() != want {
			t.Errorf("Listen: %v, want %s", err, want)
		}
	}
}

// IPMI numbers are little-endian on the wire; the mirror in console.go shares this
// package's code, so one packet is checked byte by byte.
func TestHeaderBytes(t *testing.T) {
	got := header(payloadIPMI|flagEncrypted|flagAuthenticated, 0x01020304, 0x0a0b0c0d, 0x0120)
	want := []byte{6, 0, 0xff, 7, 6, 0xc0, 4, 3, 2, 1, 0x0d, 0x0c, 0x0b, 0x0a, 0x20, 0x01}
	if !bytes.Equal(got, want) || binary.LittleEndian.Uint32(got[6:]) != 0x01020304 {
		t.Errorf("header % x, want % x", got, want)
	}
}
