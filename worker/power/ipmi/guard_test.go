// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// TestWrongPasswordFreesSlot: after a refused log-in no half-open session is left (power.md §11, 21).
func TestWrongPasswordFreesSlot(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	target := b.target(t, "operator", nil)
	target.Secret = secret(t, "operator", "not-it")
	for range 6 {
		_, err := New(nil).Open(t.Context(), target)
		wantKind(t, err, corepower.AuthFailed)
	}
	until(t, "sessions freed", func() bool { return b.bmc.Sessions.Count() == 0 })
}

// TestCloseFreesSlot: also when the caller has no time left, Close says good-bye.
func TestCloseFreesSlot(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ctx := range []context.Context{t.Context(), gone} {
		c := open(t, New(nil), b.target(t, "operator", nil))
		_ = c.Close(ctx)
		until(t, "sessions freed", func() bool { return b.bmc.Sessions.Count() == 0 })
	}
}

// TestAbandonedLoginFreesSlot: a log-in cut off half-way gives its session back.
func TestAbandonedLoginFreesSlot(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	b.hook(nil, func(p []byte) [][]byte {
		if pk, _ := parse(p); pk.kind == typeRAKP2 {
			return nil
		}
		return [][]byte{p}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := New(nil).Open(ctx, b.target(t, "operator", nil))
	wantKind(t, err, corepower.Timeout)
	until(t, "sessions freed", func() bool { return b.bmc.Sessions.Count() == 0 })
}

// rewrite changes the answers of one payload type with f.
func rewrite(b *testBMC, kind byte, f func(payload []byte) []byte) {
	b.hook(nil, func(p []byte) [][]byte {
		if pk, ok := parse(p); ok && pk.kind == kind {
			return [][]byte{handshake(kind, f(slices.Clone(pk.payload)))}
		}
		return [][]byte{p}
	})
}

// TestStatusKinds: RMCP+ status codes become the kinds of power.md §7.
func TestStatusKinds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind, status byte
		want         corepower.Kind
	}{
		{typeOpenResp, 0x01, corepower.SessionLimit},
		{typeOpenResp, 0x0b, corepower.SessionLimit},
		{typeOpenResp, 0x11, corepower.BadConfig}, // every suite allowed here is refused
		{typeOpenResp, 0x12, corepower.RemoteError},
		{typeRAKP2, 0x09, corepower.PrivilegeDenied},
		{typeRAKP2, 0x0a, corepower.PrivilegeDenied},
		{typeRAKP2, 0x0c, corepower.BadConfig},
		{typeRAKP2, 0x0d, corepower.AuthFailed},
		{typeRAKP4, 0x0f, corepower.AuthFailed},
		{typeRAKP4, 0x01, corepower.SessionLimit},
	} {
		b := newBMC(t, types.CipherSuiteID17, types.CipherSuiteID3)
		rewrite(b, c.kind, func(m []byte) []byte { m[1] = c.status; return m[:8] })
		_, err := New(nil).Open(t.Context(), b.target(t, "operator", nil))
		if got := power.KindOf(err); got != c.want {
			t.Errorf("message %#x status %#x: kind %q (%v), want %q", c.kind, c.status, got, err, c.want)
		}
	}
}

// TestWeakerAlgorithms: other algorithms than asked for end the log-in before RAKP 1 (power.md §11, 18).
func TestWeakerAlgorithms(t *testing.T) {
	t.Parallel()
	for _, at := range []int{16, 24, 32} {
		b := newBMC(t, types.CipherSuiteID17, types.CipherSuiteID3)
		var further atomic.Int32
		rewrite(b, typeOpenResp, func(m []byte) []byte { m[at] = 0; return m })
		b.hook(func(p []byte) [][]byte {
			if pk, _ := parse(p); pk.kind == typeRAKP1 {
				further.Add(1)
			}
			return [][]byte{p}
		}, b.down)
		_, err := New(nil).Open(t.Context(), b.target(t, "operator", nil))
		wantKind(t, err, corepower.ProtocolViolation)
		if further.Load() != 0 {
			t.Errorf("record %d: the log-in went on with weaker algorithms", at)
		}
	}
}

// TestSuites: auto falls back to 3 and remembers it; a fixed suite does not fall back.
func TestSuites(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID3)
	_, err := New(nil).Open(t.Context(), b.target(t, "operator", map[string]string{"cipher": "17"}))
	wantKind(t, err, corepower.Unsupported)

	var opens atomic.Int32
	b.hook(func(p []byte) [][]byte {
		if pk, _ := parse(p); pk.kind == typeOpenReq {
			opens.Add(1)
		}
		return [][]byte{p}
	}, nil)
	curt := newBMC(t, types.CipherSuiteID3) // refuses with tag and status alone, as OpenIPMI does
	rewrite(curt, typeOpenResp, func(m []byte) []byte {
		if m[1] != 0 {
			m = m[:2]
		}
		return m
	})
	if _, err := power.ReadOnce(t.Context(), New(nil), curt.target(t, "operator", nil)); err != nil {
		t.Errorf("a curt refusal of suite 17: %v", err)
	}

	d, target := New(nil), b.target(t, "operator", nil)
	for i, want := range []int32{2, 1} {
		opens.Store(0)
		if _, err := power.ReadOnce(t.Context(), d, target); err != nil {
			t.Fatalf("read: %v", err)
		}
		if got := opens.Load(); got != want {
			t.Errorf("read %d: %d log-ins begun, want %d", i+1, got, want)
		}
	}
}

// TestForeignSessionKey: a session key we do not know is no wrong password.
func TestForeignSessionKey(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	rewrite(b, typeRAKP4, func(m []byte) []byte { m[len(m)-1] ^= 1; return m })
	_, err := New(nil).Open(t.Context(), b.target(t, "operator", nil))
	wantKind(t, err, corepower.ProtocolViolation)
}

// TestCompletionCodes: completion codes become kinds and outcomes (power.md §7).
func TestCompletionCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code byte
		kind corepower.Kind
		out  corepower.Outcome
	}{
		{0xc0, corepower.Busy, corepower.Rejected},
		{0xc3, corepower.Busy, corepower.Rejected},
		{0xd2, corepower.Busy, corepower.Rejected},
		{0xff, corepower.Busy, corepower.Rejected},
		{0xc1, corepower.Unsupported, corepower.Rejected},
		{0xd6, corepower.Unsupported, corepower.Rejected},
		{0xd4, corepower.PrivilegeDenied, corepower.Rejected},
		{0xd5, corepower.InvalidState, corepower.AlreadyThere},
		{0xcc, corepower.RemoteError, corepower.Indeterminate},
		{0x00, corepower.ProtocolViolation, corepower.Accepted}, // status: 00h and an empty body
	} {
		b := newBMC(t, types.CipherSuiteID17)
		sh := newShadow(suites["17"], "operator")
		sh.follow(b.relay, func(pk packet, p []byte) [][]byte {
			if pk.kind == sealed && sh.request.netFn() == netFnChassis {
				return [][]byte{sh.reply(sh.answer(c.code))}
			}
			return [][]byte{p}
		})
		conn := open(t, New(nil), b.target(t, "operator", nil))
		r, err := conn.Status(t.Context())
		if r != (corepower.Reading{}) || power.KindOf(err) != c.kind {
			t.Errorf("status %#x: %+v, %v, want kind %q", c.code, r, err, c.kind)
		}
		out, err := conn.Do(t.Context(), power.Command{Verb: corepower.HardOff})
		if out != c.out || power.MayHaveRun(err) != (out == corepower.Indeterminate) {
			t.Errorf("off %#x: %s, %v, want %s", c.code, out, err, c.out)
		}
		var e *power.Error
		if c.kind == corepower.Busy && (!errors.As(err, &e) || e.RetryAfter == 0 || e.Code != int(c.code)) {
			t.Errorf("off %#x: a busy device says when to try again: %v", c.code, err)
		}
	}
}

// TestFault: the power-control fault bit is reported beside the state.
func TestFault(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	sh := newShadow(suites["17"], "operator")
	sh.follow(b.relay, func(pk packet, p []byte) [][]byte {
		if pk.kind == sealed && sh.request.netFn() == netFnChassis {
			return [][]byte{sh.reply(sh.answer(0, 0x10, 0, 0))}
		}
		return [][]byte{p}
	})
	r, err := open(t, New(nil), b.target(t, "operator", nil)).Status(t.Context())
	if err != nil || r.State != corepower.Off || !r.Fault || !r.Authentic || r.Raw != "10000000" {
		t.Errorf("status with fault: %+v, %v", r, err)
	}
}

// TestRepetition: off may be repeated, each time asking before; reset leaves once.
func TestRepetition(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		verb corepower.Verb
		want int32
	}{{corepower.HardOff, 2}, {corepower.HardOn, 2}, {corepower.Reset, 1}, {corepower.Cycle, 1}, {corepower.SoftOff, 1}} {
		b := newBMC(t, types.CipherSuiteID17)
		target := b.target(t, "operator", nil)
		target.Limits = power.Limits{Packet: 50 * time.Millisecond, Answer: 300 * time.Millisecond}
		conn := open(t, New(nil), target)
		if e := conn.raise(t.Context()); e != nil {
			t.Fatalf("raise privilege: %v", e)
		}
		var packets atomic.Int32
		b.hook(func([]byte) [][]byte { packets.Add(1); return nil }, nil)
		asked := 0
		out, err := conn.Do(t.Context(), power.Command{Verb: c.verb, Before: func() error { asked++; return nil }})
		if out != corepower.Indeterminate || !power.MayHaveRun(err) {
			t.Errorf("%s without an answer: %s, %v", c.verb, out, err)
		}
		if packets.Load() != c.want || asked != int(c.want) {
			t.Errorf("%s: %d packets left, asked %d times, want %d of each", c.verb, packets.Load(), asked, c.want)
		}
	}
}

// TestRepetitionRefused: a lease lost between a packet and its repetition stops the
// repetition only, and the first packet may have run.
func TestRepetitionRefused(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	target := b.target(t, "operator", nil)
	target.Limits = power.Limits{Packet: 50 * time.Millisecond}
	conn := open(t, New(nil), target)
	lost, asked := errors.New("the lease is lost"), 0
	out, err := conn.Do(t.Context(), power.Command{Verb: corepower.HardOff, Before: func() error {
		if asked++; asked > 1 {
			return lost
		}
		b.mute.Store(true)
		return nil
	}})
	if out != corepower.Indeterminate || !power.MayHaveRun(err) || !errors.Is(err, lost) {
		t.Errorf("repetition refused: %s, %v", out, err)
	}
}

// TestNotAfterBetween: a command that becomes late on its way is not sent.
func TestNotAfterBetween(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	conn := open(t, New(nil), b.target(t, "operator", nil))
	b.hook(nil, func(p []byte) [][]byte { // delay the answer to Set Session Privilege
		<-time.After(150 * time.Millisecond)
		return [][]byte{p}
	})
	out, err := conn.Do(t.Context(), power.Command{Verb: corepower.HardOff, NotAfter: time.Now().Add(100 * time.Millisecond)})
	if out != corepower.Rejected || power.MayHaveRun(err) {
		t.Errorf("late on its way: %s, %v", out, err)
	}
	wantKind(t, err, corepower.DeadlinePassed)
	if b.chassis.state() != corepower.On {
		t.Error("the late command was executed")
	}
}

// TestSlowDevice: a device slower than the packet time-out works, since the first answer
// counts and repeated ones are dropped (power.md §3, defect 5; §11, 8).
func TestSlowDevice(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	b.hook(func(p []byte) [][]byte {
		time.AfterFunc(150*time.Millisecond, func() { _, _ = b.back.Write(p) })
		return nil
	}, nil)
	target := b.target(t, "operator", nil)
	target.Limits = power.Limits{Packet: 100 * time.Millisecond, Answer: 2 * time.Second}
	r, err := power.ReadOnce(t.Context(), New(nil), target)
	if err != nil || r.State != corepower.On {
		t.Errorf("read from a slow device: %+v, %v", r, err)
	}
}

// TestRepeatedLoginIsNotAuthFailed: a device that mixes up repeated log-in messages does
// not count as a wrong password, which would stop all tries for 15 minutes.
func TestRepeatedLoginIsNotAuthFailed(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	lost := false
	rewrite(b, typeRAKP4, func(m []byte) []byte { m[1] = statusBadCheckValue; return m[:8] })
	b.hook(func(p []byte) [][]byte {
		if pk, _ := parse(p); pk.kind == typeRAKP1 && !lost {
			lost = true
			return nil
		}
		return [][]byte{p}
	}, b.down)
	target := b.target(t, "operator", nil)
	target.Limits.Packet = 50 * time.Millisecond
	_, err := New(nil).Open(t.Context(), target)
	wantKind(t, err, corepower.Timeout)
}

// TestLoss: with 30 % of packets lost each way a read is right or unknown, never wrong (power.md §11, 10).
func TestLoss(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	var n atomic.Uint32
	lossy := func(p []byte) [][]byte {
		if n.Add(1)*2654435761>>16%10 < 3 {
			return nil
		}
		return [][]byte{p}
	}
	b.hook(lossy, lossy)
	target := b.target(t, "operator", nil)
	target.Limits = power.Limits{Packet: 10 * time.Millisecond, Answer: 30 * time.Millisecond}
	right := 0
	for range 60 {
		r, err := power.ReadOnce(t.Context(), New(nil), target)
		switch {
		case err == nil && r.State == corepower.On:
			right++
		case err == nil || r != (corepower.Reading{}):
			t.Fatalf("a read under loss is right or unknown: %+v, %v", r, err)
		}
	}
	if right == 0 {
		t.Error("no read succeeded under 30% loss")
	}
}

// TestPrivilege: an account below operator reads but may not switch (power.md §11, 24).
func TestPrivilege(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	_, err := New(nil).Open(t.Context(), b.target(t, "user", nil))
	wantKind(t, err, corepower.PrivilegeDenied)

	conn := open(t, New(nil), b.target(t, "user", map[string]string{"privilege": "user"}))
	if r, err := conn.Status(t.Context()); err != nil || r.State != corepower.On {
		t.Errorf("status as user: %+v, %v", r, err)
	}
	out, err := conn.Do(t.Context(), power.Command{Verb: corepower.HardOff})
	if out != corepower.Rejected || b.chassis.state() != corepower.On {
		t.Errorf("off as user: %s, %v", out, err)
	}
	wantKind(t, err, corepower.PrivilegeDenied)
}

// TestVerbs: each verb reaches the chassis as itself.
func TestVerbs(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	conn := open(t, New(nil), b.target(t, "operator", nil))
	verbs := New(nil).Describe().Capabilities.Verbs
	for _, v := range verbs {
		if out, err := conn.Do(t.Context(), power.Command{Verb: v}); err != nil || out != corepower.Accepted {
			t.Errorf("do %s: %s, %v", v, out, err)
		}
	}
	if got := b.device(t, nil).Commands(); !slices.Equal(got, verbs) {
		t.Errorf("the chassis saw %v, want %v", got, verbs)
	}
}

// TestClosedPort: an ICMP refusal is Unreachable at once, not after the time-out.
func TestClosedPort(t *testing.T) {
	t.Parallel()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	addr := l.LocalAddr().String()
	_ = l.Close()
	start := time.Now()
	_, err = power.ReadOnce(t.Context(), New(nil), power.Target{Address: addr, Secret: secret(t, "operator", password)})
	wantKind(t, err, corepower.Unreachable)
	if took := time.Since(start); took > time.Second {
		t.Errorf("a closed port is told at once, took %v", took)
	}
}

// TestSessionTable: Get Session Info, on a device that lists only our own.
func TestSessionTable(t *testing.T) {
	t.Parallel()
	b := newBMC(t, types.CipherSuiteID17)
	conn := open(t, New(nil), b.target(t, "operator", nil))
	s, ok := power.As[power.Sessions](conn)
	if !ok {
		t.Fatal("the connection lists sessions")
	}
	got, err := s.Sessions(t.Context())
	if err != nil || got.Active != 1 || got.Slots < 1 || !got.Complete || len(got.Others) != 0 {
		t.Errorf("sessions: %+v, %v", got, err)
	}
}

// TestCheck: settings that cannot work are refused with field, value and what is allowed.
func TestCheck(t *testing.T) {
	t.Parallel()
	d := New(nil)
	good := power.Target{Address: "10.0.0.7", Secret: secret(t, "operator", password)}
	for _, c := range []struct {
		name string
		edit func(*power.Target)
		want string
	}{
		{"21-byte password", func(t2 *power.Target) { t2.Secret = secret(t, "u", "123456789012345678901") }, "21 bytes"},
		{"17-byte user", func(t2 *power.Target) { t2.Secret = secret(t, "12345678901234567", "x") }, "17 bytes"},
		{"suite 0", func(t2 *power.Target) { t2.Params = map[string]string{"cipher": "0"} }, `"0": allowed are auto, 17, 3`},
		{"port", func(t2 *power.Target) { t2.Address = "10.0.0.7:66666" }, "HOST:PORT"},
		{"no address", func(t2 *power.Target) { t2.Address = "" }, "no host"},
		{"no secret", func(t2 *power.Target) { t2.Secret = power.Secret{} }, "no secret"},
	} {
		bad := good
		c.edit(&bad)
		err := d.Check(bad)
		wantKind(t, err, corepower.BadConfig)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v should contain %q", c.name, err, c.want)
		}
	}
	if err := d.Check(good); err != nil {
		t.Errorf("check of a right target: %v", err)
	}
	if w := d.Warnings(good); len(w) != 1 {
		t.Errorf("a password above 16 bytes is warned of: %q", w)
	}
}
