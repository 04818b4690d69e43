// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestGolden plays scripts against model BMCs on virtual time and shows every exchange
// and the verdict. Commands:
//
//	bmc NAME [ARG…]                     how it behaves, see scripted
//	run goal=G [verb=V] [until=D]       with ladder lines "N all|any DEVICE…" as input; +DEVICE feeds the host
//	adopt [died] [after=D] [on-not-before=D] [until=D]
//	                                    the next owner takes it over and runs on; died: the old
//	                                    one carried the outstanding exchange out and told nobody
//	cancel                              with the reason as input
func TestGolden(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		devices := map[string]*bmc{}
		var w *world
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "bmc":
				b := scripted(t, d, devices)
				devices[d.CmdArgs[0].Key] = b
				if w != nil {
					w.devices = devices
				}
				return ""
			case "run":
				var goal, verb, until string
				d.ScanArgs(t, "goal", &goal)
				d.MaybeScanArgs(t, "verb", &verb)
				d.MaybeScanArgs(t, "until", &until)
				w = newWorld(t, Limits{}, devices)
				w.begin(Goal(goal), Verb(verb), ladderOf(t, d.Input))
				return w.play(t, until)
			case "adopt":
				w.t = t
				var after, notBefore, until string
				d.MaybeScanArgs(t, "after", &after)
				d.MaybeScanArgs(t, "until", &until)
				from := w.trace.Len()
				if d.HasArg("died") {
					w.lose(true)
				}
				w.now = w.now.Add(duration(t, after))
				if d.MaybeScanArgs(t, "on-not-before", &notBefore) {
					w.l.OnNotBefore = w.now.Add(duration(t, notBefore))
				}
				w.adopted++
				w.feed(TxnEvent{Adopted: true})
				return w.trace.String()[from:] + w.play(t, until)
			case "cancel":
				w.t = t
				w.feed(TxnEvent{Cancel: strings.TrimSpace(d.Input)})
				return w.play(t, "")
			}
			t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
			return ""
		})
	})
}

func duration(t *testing.T, s string) time.Duration {
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func ladderOf(t *testing.T, input string) []Level {
	var out []Level
	for _, line := range strings.Split(strings.TrimSpace(input), "\n") {
		var l Level
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if _, err := fmt.Sscan(f[0], &l.N); err != nil || len(f) < 2 {
			t.Fatalf("ladder line %q", line)
		}
		l.All = f[1] == "all"
		for _, name := range f[2:] {
			device, feeds := strings.CutPrefix(name, "+")
			l.Devices = append(l.Devices, device)
			if feeds {
				l.Feeds = append(l.Feeds, device)
			}
		}
		out = append(out, l)
	}
	return out
}

func scripted(t *testing.T, d *datadriven.TestData, others map[string]*bmc) *bmc {
	b := honest()
	for _, a := range d.CmdArgs[1:] {
		n := 0
		if len(a.Vals) > 0 {
			fmt.Sscan(a.Vals[0], &n)
		}
		switch a.Key {
		case "off":
			b.on = false
		case "off-takes":
			b.offTakes = duration(t, a.Vals[0])
		case "on-takes":
			b.onTakes = duration(t, a.Vals[0])
		case "fed-by":
			for _, name := range a.Vals {
				b.feeds = append(b.feeds, others[name])
			}
		case "boots":
			b.boots = duration(t, a.Vals[0])
		case "comes-up":
			b.comesUp = duration(t, a.Vals[0])
		case "mute":
			b.identity = func(time.Time) TxnEvent { return TxnEvent{Err: Unreachable} }
		case "auth":
			b.identity = func(time.Time) TxnEvent { return TxnEvent{Err: AuthFailed} }
		case "other-box":
			b.identity = func(time.Time) TxnEvent { return TxnEvent{Identity: Identity{SystemUUID: "b0b"}} }
		case "young":
			b.identity = func(time.Time) TxnEvent { return TxnEvent{Matched: true, BMCYoung: true} }
		case "stuck":
			b.send = func(time.Time, Verb) (TxnEvent, bool) { return TxnEvent{Sent: true, Outcome: Accepted}, false }
		case "sessions":
			b.identity = func(time.Time) TxnEvent {
				if n--; n >= 0 {
					return TxnEvent{Err: SessionLimit}
				}
				return TxnEvent{Matched: true}
			}
		case "busy":
			b.send = answerFirst(n, TxnEvent{Sent: true, Outcome: Rejected, Err: Busy})
		case "refuse":
			b.send = answerFirst(n, TxnEvent{Sent: true, Outcome: Rejected, Err: RemoteError})
		case "not-sent":
			b.send = answerFirst(n, TxnEvent{Err: DeadlinePassed})
		case "already":
			b.send = func(time.Time, Verb) (TxnEvent, bool) {
				return TxnEvent{Sent: true, Outcome: AlreadyThere}, true
			}
		case "unsure":
			b.send = func(time.Time, Verb) (TxnEvent, bool) {
				return TxnEvent{Sent: true, Outcome: Indeterminate, Err: Timeout}, true
			}
		default:
			t.Fatalf("%s: unknown argument %s", d.Pos, a.Key)
		}
	}
	return b
}

// answerFirst gives the first n commands an answer without running them.
func answerFirst(n int, ev TxnEvent) func(time.Time, Verb) (TxnEvent, bool) {
	return func(time.Time, Verb) (TxnEvent, bool) {
		if n--; n >= 0 {
			return ev, false
		}
		return TxnEvent{Sent: true, Outcome: Accepted}, true
	}
}

// play runs the transaction and tells what happened since the last time.
func (w *world) play(t *testing.T, until string) string {
	from := w.trace.Len()
	stop := start.Add(duration(t, until))
	for i := 0; (until == "" || w.now.Before(stop)) && w.step(); i++ {
		if i > 5000 {
			t.Fatalf("the transaction does not end\n%s", w.trace.String())
		}
	}
	var b strings.Builder
	b.WriteString(w.trace.String()[from:])
	fmt.Fprintf(&b, "%7.2f  phase %s, off sent %v, on sent %v\n", w.now.Sub(start).Seconds(), w.txn.Progress.Phase, w.txn.OffSent(), w.txn.OnSent())
	if v := w.txn.Verdict; v != nil {
		fmt.Fprintf(&b, "verdict %s", v.Assurance)
		if v.Level != 0 {
			fmt.Fprintf(&b, " level %d", v.Level)
		}
		if !v.OffSince.IsZero() {
			fmt.Fprintf(&b, " off since %.2f", v.OffSince.Sub(start).Seconds())
		}
		if v.On != Unknown {
			fmt.Fprintf(&b, " on %s", v.On)
		}
		if v.Silent {
			b.WriteString(" silent")
		}
		fmt.Fprintf(&b, ": %s\n", v.Reason)
	}
	return b.String()
}
