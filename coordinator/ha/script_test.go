// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// Scripts in testdata tell a host's story on a virtual clock, one command a block:
//
//	host [preset=fast] [policy=fence] [ladder=none] [seen=no] [repair=true]
//	                                    a new host, run until it is AVAILABLE
//	break how=crash, repair             what `holdfast dev` does
//	wait for=30s                        time passes
//	order verb=off by=ann [second=bob]  an operator's word
//	feed kind=hello boot=b1 [power=OFF] [verdict=fail] [why=x]
//	                                    one event by hand
//	partition|maintenance|exclude|disarm|budget|blind|eligible|instances|storm|pool-lost
//	adopt                               another worker takes the host over
//	show, explain                       what is on record
func TestScripts(t *testing.T) {
	for _, path := range scripts(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) { runScript(t, path, map[*Row]bool{}) })
	}
}

func scripts(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(all) == 0 {
		t.Fatalf("scripts in testdata: %d, %v", len(all), err)
	}
	return all
}

func runScript(t *testing.T, path string, visited map[*Row]bool) {
	var w *world
	datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
		if d.Cmd == "host" {
			w = newWorld(testPolicy(arg(d, "preset")))
			w.visited = visited
			if m := arg(d, "policy"); m != "" {
				w.p.Mode = m
			}
			if arg(d, "repair") != "" {
				w.p.RepairAttempts = 1
			}
			switch arg(d, "ladder") {
			case "none":
				w.p.Ladder = nil
			case "manual":
				w.p.Ladder = append(w.p.Ladder, power.Level{N: 4, Devices: []string{"hand"}, Human: true})
			}
			w.feed(Event{Kind: EvPartition, Partition: PartitionActive})
			if arg(d, "seen") == "no" {
				w.die(false)
			} else {
				w.feed(Event{Kind: EvHello, Boot: w.boot(), Instances: w.instances})
			}
			w.feed(Event{Kind: EvEligible, Verdict: Pass})
			w.advance(20 * time.Second)
		} else if err := w.command(d); err != nil {
			d.Fatalf(t, "%v", err)
		}
		out := w.out.String()
		w.out.Reset()
		if out == "" {
			return "nothing\n"
		}
		return out
	})
}

func (w *world) command(d *datadriven.TestData) error {
	on := arg(d, "off") == "" // `maintenance off=true`
	switch d.Cmd {
	case "wait":
		dur, err := time.ParseDuration(arg(d, "for"))
		if err != nil {
			return err
		}
		w.advance(dur)
	case "break":
		return w.breakHow(arg(d, "how"))
	case "repair":
		w.repair()
	case "order":
		w.feed(Event{Kind: EvOperator, Life: w.lastPing, Order: &Order{Verb: OrderVerb(arg(d, "verb")), ID: "o1", By: arg(d, "by"), Second: arg(d, "second")}})
	case "partition":
		w.feed(Event{Kind: EvPartition, Partition: PartitionState(arg(d, "state"))})
	case "eligible":
		w.feed(Event{Kind: EvEligible, Verdict: Verdict(arg(d, "verdict")), Reason: arg(d, "why")})
	case "maintenance":
		w.feed(Event{Kind: EvAdmin, Admin: &Admin{Maintenance: on}})
	case "exclude":
		w.feed(Event{Kind: EvAdmin, Admin: &Admin{Excluded: on}})
	case "disarm":
		w.disarmed, w.p.Disarmed = "", ""
		if on {
			w.disarmed, w.p.Disarmed = "network works until noon", "network works until noon"
		}
		w.feed(Event{Kind: EvPolicy})
	case "budget":
		w.budget = ""
		if on {
			w.budget = "used up"
		}
		w.feed(Event{Kind: EvPolicy})
	case "blind":
		w.blind = on
		w.feed(Event{Kind: EvPolicy})
	case "instances":
		w.instances, w.local = strings.Split(arg(d, "run"), "+"), nil
		if l := arg(d, "local"); l != "" {
			w.local = strings.Split(l, "+")
		}
	case "storm": // so many other hosts of the rack are suspects; off=true: it ended now
		was := w.storm
		w.storm, w.stormEnded = 0, time.Time{}
		if on {
			if _, err := fmt.Sscan(arg(d, "hosts"), &w.storm); err != nil {
				return err
			}
		} else if was > 0 {
			w.stormEnded = w.now
		}
		w.feed(Event{Kind: EvPolicy})
	case "pool-lost": // by so many other hosts
		w.poolLost = 0
		if on {
			if _, err := fmt.Sscan(arg(d, "hosts"), &w.poolLost); err != nil {
				return err
			}
		}
		w.feed(Event{Kind: EvPolicy})
	case "adopt":
		w.adopt()
	case "feed":
		life := w.now
		if arg(d, "life") == "old" {
			life = w.lastPing
		}
		ev := Event{Kind: Kind(arg(d, "kind")), Verdict: Verdict(arg(d, "verdict")), Boot: arg(d, "boot"), ID: arg(d, "id"), Reason: arg(d, "why"), Life: life}
		if state := arg(d, "power"); state != "" {
			if err := ev.Power.UnmarshalText([]byte(state)); err != nil {
				return err
			}
			ev.PowerTold, ev.PowerFirst = ev.Power != power.Unknown, w.now
		}
		if ev.Kind == EvGate && w.rec.Gate != nil {
			ev.ID = w.rec.Gate.Generation
		}
		if ev.Kind == EvHello {
			w.lastPing = w.now
		}
		if ev.Boot == w.boot() {
			ev.Instances = w.instances
		}
		w.feed(ev)
	case "show":
		w.show()
	case "explain":
		w.explain()
	default:
		return fmt.Errorf("command %q is not known", d.Cmd)
	}
	return nil
}

func arg(d *datadriven.TestData, name string) string {
	for _, a := range d.CmdArgs {
		if a.Key == name && len(a.Vals) > 0 {
			return strings.Join(a.Vals, " ")
		}
	}
	return ""
}

func (w *world) show() {
	r := w.rec
	fmt.Fprintf(&w.out, "%s: %s\n", r.State, r.Reason)
	for _, h := range r.Holds() {
		fmt.Fprintf(&w.out, "held by %s: %s\n", h.By, h.Reason)
	}
	if p := r.Proof; p != nil {
		fmt.Fprintf(&w.out, "proof: boot %s %s %s ended=%v revoked=%q\n", p.Boot, p.Assurance, p.How, p.Ended, p.Revoked)
	}
	if i := r.Incident; i != nil {
		fmt.Fprintf(&w.out, "incident: attempts=%d checks=%d budgeted=%v outcome=%q\n", i.Attempts, i.CheckNo, i.Budgeted, i.Outcome)
	}
	fmt.Fprintf(&w.out, "packets: %v\n", sent(w.packets))
}

func sent(verbs []power.Verb) string {
	if len(verbs) == 0 {
		return "none"
	}
	return fmt.Sprint(verbs)
}

func (w *world) explain() {
	e := Explain(w.rec, w.p, w.now)
	fmt.Fprintf(&w.out, "%s since %s: %s\n", e.State, clock(e.Since), e.Why)
	lines := func(head string, all []string) {
		for _, l := range all {
			fmt.Fprintf(&w.out, "%s %s\n", head, l)
		}
	}
	for _, h := range e.Holds {
		fmt.Fprintf(&w.out, "held by %s: %s\n", h.By, h.Reason)
	}
	lines("next:", e.Next)
	lines("would change:", e.WouldChange)
	lines("you may:", e.OperatorMay)
}

// The end of each row of the break table (issue "One host dies and comes back"), at
// both presets, without reading a script's words.
func TestBreakTable(t *testing.T) {
	off, cycle := []power.Verb{power.HardOff}, []power.Verb{power.HardOff, power.HardOn}
	for _, c := range []struct {
		how     string
		within  time.Duration
		state   State
		packets []power.Verb
		after   State // after repair
		budget  bool
	}{
		{how: "crash", within: 3 * time.Minute, state: Available, packets: cycle, budget: true},
		{how: "hang", within: 3 * time.Minute, state: Available, packets: cycle, budget: true},
		{how: "agent-killed", within: 5 * time.Minute, state: Degraded, after: Available},
		{how: "link-lost", within: 5 * time.Minute, state: Degraded, after: Available},
		{how: "storage-lost", within: 5 * time.Minute, state: Degraded, after: Available},
		{how: "storage-lost-cluster", within: 5 * time.Minute, state: Degraded, after: Available},
		{how: "reboot", within: 2 * time.Minute, state: Available},
		{how: "power-off", within: 3 * time.Minute, state: Fenced, packets: off, after: Available},
		{how: "mains-lost", within: 3 * time.Minute, state: Suspect},
		{how: "bmc-dead", within: 3 * time.Minute, state: Unsupported, after: Available},
		{how: "bmc-lies", within: 30 * time.Minute, state: Failed, budget: true},
	} {
		for _, preset := range []string{"default", "fast"} {
			t.Run(c.how+"/"+preset, func(t *testing.T) {
				w := newWorld(testPolicy(preset))
				w.quietLogs = true
				spent := 0
				w.check = func(_ Record, _ Event, s *step) {
					for _, e := range s.out {
						if e.Kind == Spend {
							spent++
						}
					}
				}
				w.feed(Event{Kind: EvPartition, Partition: PartitionActive})
				w.feed(Event{Kind: EvHello, Boot: w.boot(), Instances: w.instances})
				w.feed(Event{Kind: EvEligible, Verdict: Pass})
				w.advance(time.Minute)
				if w.rec.State != Available {
					t.Fatalf("before the break: %s (%s)", w.rec.State, w.rec.Reason)
				}
				if err := w.breakHow(c.how); err != nil {
					t.Fatal(err)
				}
				w.advance(c.within)
				if w.rec.State == Checking {
					w.advance(w.p.CheckWindow + time.Second)
				}
				if w.rec.State != c.state {
					t.Fatalf("end %s (%s), want %s", w.rec.State, w.rec.Reason, c.state)
				}
				if c.how != "bmc-lies" && !slices.Equal(w.packets, c.packets) {
					t.Errorf("packets %v, want %v", w.packets, c.packets)
				}
				if c.budget != (spent == 1) || spent > 1 {
					t.Errorf("%d slots spent, want one a recovery and none otherwise", spent)
				}
				if c.after != "" {
					w.repair()
					w.advance(6 * time.Minute)
					if w.rec.State != c.after {
						t.Errorf("after repair %s (%s), want %s", w.rec.State, w.rec.Reason, c.after)
					}
				}
			})
		}
	}
}
