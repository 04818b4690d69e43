// SPDX-License-Identifier: Apache-2.0

package power

import (
	"encoding/json"
	"math/rand"
	"testing"
	"time"
)

func mustJSON(t tb, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func one(devices ...string) []Level { return []Level{{N: 1, Devices: devices, All: true}} }

// The ten BMCs of power.md §6.1, column "settled": what the rule makes of each, and
// whether the chassis really was off when it said so.
func TestTenBehaviours(t *testing.T) {
	off := Reading{State: Off, Authentic: true}
	on := Reading{State: On, Authentic: true}
	accept := TxnEvent{Sent: true, Outcome: Accepted}
	offTimes := func(b *bmc, n int) {
		sent := false
		b.send = func(time.Time, Verb) (TxnEvent, bool) { sent = true; return accept, false }
		b.read = func(time.Time) (Reading, Kind) {
			if sent && n > 0 {
				n--
				return off, NoError
			}
			return on, NoError
		}
	}
	for _, c := range []struct {
		name   string
		break_ func(*bmc)
		proven bool
		lies   bool // the one behaviour the rule cannot see through
		within time.Duration
	}{
		{"healthy, chassis needs 4 s to go off", func(b *bmc) { b.offTakes = 4 * time.Second }, true, false, 11 * time.Second},
		{"healthy, off at once", func(b *bmc) {}, true, false, 7 * time.Second},
		{"accepts the command, does nothing", func(b *bmc) {
			b.send = func(time.Time, Verb) (TxnEvent, bool) { return accept, false }
		}, false, false, 60 * time.Second},
		{"reads OFF once, then ON (stays on)", func(b *bmc) { offTimes(b, 1) }, false, false, 60 * time.Second},
		{"reads OFF three times, then ON", func(b *bmc) { offTimes(b, 3) }, false, false, 60 * time.Second},
		{"host powers itself on 4 s after off", func(b *bmc) {
			b.send = func(now time.Time, v Verb) (TxnEvent, bool) {
				b.on, b.onAt = false, now.Add(4*time.Second)
				return accept, false
			}
		}, false, false, 60 * time.Second},
		{"forged plaintext OFF before each answer", func(b *bmc) {
			b.send = func(time.Time, Verb) (TxnEvent, bool) { return accept, false }
			b.read = func(time.Time) (Reading, Kind) { return Reading{State: Off}, NoError }
		}, false, false, 60 * time.Second},
		{"always says OFF, host runs on", func(b *bmc) {
			b.send = func(time.Time, Verb) (TxnEvent, bool) { return accept, false }
			b.read = func(time.Time) (Reading, Kind) { return off, NoError }
		}, true, true, 10 * time.Second},
		{"always says ON, host is off", func(b *bmc) {
			b.on = false
			b.read = func(time.Time) (Reading, Kind) { return on, NoError }
		}, false, false, 60 * time.Second},
		{"busy (C0h) for two commands", func(b *bmc) {
			n := 0
			b.send = func(time.Time, Verb) (TxnEvent, bool) {
				if n++; n <= 2 {
					return TxnEvent{Sent: true, Outcome: Rejected, Err: Busy}, false
				}
				return accept, true
			}
		}, true, false, 24 * time.Second},
		{"mute after the command, which ran", func(b *bmc) {
			n := 0
			b.send = func(time.Time, Verb) (TxnEvent, bool) {
				return TxnEvent{Sent: true, Outcome: Indeterminate, Err: Timeout}, true
			}
			b.read = func(time.Time) (Reading, Kind) {
				if n++; n > 1 && n < 4 {
					return Reading{}, Timeout
				}
				return off, NoError
			}
		}, true, false, 60 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := honest()
			c.break_(b)
			w := newWorld(t, Limits{}, map[string]*bmc{"bmc": b})
			w.begin(GoalOff, "", one("bmc"))
			v := w.run()
			if proven := v.Assurance >= A3; proven != c.proven {
				t.Fatalf("proven is %v, want %v: %s\n%s", proven, c.proven, v.Reason, w.trace.String())
			}
			if v.Assurance >= A3 && b.truth(w.now) != c.lies {
				t.Fatalf("FALSE: fenced while the chassis is on\n%s", w.trace.String())
			}
			if took := w.now.Sub(start); took > c.within {
				t.Errorf("took %s, want at most %s\n%s", took, c.within, w.trace.String())
			}
			if v.Silent {
				t.Errorf("silent, though the device answered: %s", v.Reason)
			}
		})
	}
}

// Twenty per cent of answers lost: never a false fence, whatever is lost (§6.1, last row).
func TestLostAnswers(t *testing.T) {
	proven := 0
	for seed := range int64(50) {
		rnd := rand.New(rand.NewSource(seed))
		b := honest()
		b.offTakes = 4 * time.Second
		b.read = func(now time.Time) (Reading, Kind) {
			if rnd.Intn(5) == 0 {
				return Reading{}, Timeout
			}
			s := Off
			if b.truth(now) {
				s = On
			}
			return Reading{State: s, Authentic: true, At: now}, NoError
		}
		b.send = func(time.Time, Verb) (TxnEvent, bool) {
			switch rnd.Intn(10) {
			case 0: // the answer was lost
				return TxnEvent{Sent: true, Outcome: Indeterminate, Err: Timeout}, true
			case 1: // the command was lost
				return TxnEvent{Sent: true, Outcome: Indeterminate, Err: Timeout}, false
			}
			return TxnEvent{Sent: true, Outcome: Accepted}, true
		}
		w := newWorld(t, Limits{}, map[string]*bmc{"bmc": b})
		w.begin(GoalOff, "", one("bmc"))
		v := w.run()
		if v.Assurance >= A3 {
			proven++
			if b.truth(w.now) {
				t.Fatalf("seed %d: FALSE\n%s", seed, w.trace.String())
			}
		}
	}
	if proven < 40 {
		t.Errorf("only %d of 50 fences succeeded at 20 %% loss", proven)
	}
}
