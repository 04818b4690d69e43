// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/budget"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// ofWorker makes a verb for one worker; "owner:h3" means whoever owns h3 then.
func ofWorker(usage, doc string, do func(w *worker, args []string)) verb {
	n := 1 + len(strings.Fields(usage))
	return verb{Usage: strings.TrimSpace("<worker> " + usage), Doc: doc, least: n, most: n, prepare: func(f *Fleet, args []string) (func(), error) {
		id, of, _ := strings.Cut(args[0], ":")
		if h := f.byID[of]; id == "owner" && h != nil {
			return func() {
				if h.owner != nil {
					f.disturb(h.owner.w, func(w *worker) { do(w, args[1:]) })
				}
			}, nil
		}
		k := slices.IndexFunc(f.workers, func(w *worker) bool { return w.id == args[0] })
		if k < 0 {
			return nil, fmt.Errorf("worker %q is not in the topology, allowed are its workers and owner:<host>", args[0])
		}
		return func() { f.disturb(f.workers[k], func(w *worker) { do(w, args[1:]) }) }, nil
	}}
}

func (f *Fleet) disturb(w *worker, do func(*worker)) {
	w.touched = f.now
	do(w)
	f.refreshAll()
}

func lasts(k int) func([]string) error {
	return func(args []string) error {
		if k < len(args) {
			if _, err := time.ParseDuration(args[k]); err != nil {
				return fmt.Errorf("%q is no duration, such as 30s", args[k])
			}
		}
		return nil
	}
}

func span(text string) time.Duration {
	d, _ := time.ParseDuration(text) // checked when the script was read
	return d
}

// What happens to the control plane.
var controlVerbs = map[string]verb{
	"kill":      ofWorker("", "the process dies; its parent reaps it and frees its slots", func(w *worker, _ []string) { w.kill() }),
	"kill-box":  ofWorker("", "its whole machine dies; its lease has to run out", func(w *worker, _ []string) { w.crash() }),
	"start":     ofWorker("", "the process is started again", func(w *worker, _ []string) { w.restart() }),
	"pause":     ofWorker("<for>", "the process stands still for so long", func(w *worker, args []string) { w.pause(span(args[0])) }).checked(lasts(1)),
	"isolate":   ofWorker("", "the worker reaches neither hosts nor BMCs, and etcd all the same", func(w *worker, _ []string) { w.isolated = true }),
	"unisolate": ofWorker("", "it reaches them again", func(w *worker, _ []string) { w.isolated = false }),
	"lose-etcd": ofWorker("", "this worker alone does not reach etcd", func(w *worker, _ []string) { w.noEtcd = true; w.cut() }),
	"find-etcd": ofWorker("", "it reaches etcd again", func(w *worker, _ []string) { w.noEtcd = false; w.uncut() }),
	"clock":     ofWorker("<by>", "the clock of the worker's machine jumps, forward or (-1h) back", func(w *worker, args []string) { w.jump(span(args[0])) }).checked(lasts(1)),
	"heal":      {"", "every shared fault and every switch is taken back; dead machines stay dead", 0, 0, func(f *Fleet, _ []string) (func(), error) { return f.Heal, nil }},
	"etcd": {"down|up", "etcd is away for everybody, or back", 1, 1, func(f *Fleet, args []string) (func(), error) {
		return func() {
			for _, w := range f.workers {
				w.touched = f.now
			}
			f.setEtcd(args[0] == "up")
		}, oneOf("etcd", 0, "down", "up")(args)
	}},
}

func (w *worker) restart() {
	if w.alive {
		return
	}
	w.start()
}

// jump sets the clock; timers that run do not notice.
func (w *worker) jump(by time.Duration) {
	w.before, w.jumped = w.skew, w.f.now
	w.skew += by
	for _, o := range w.sorted() {
		o.post(func() { o.step(ha.Event{Kind: ha.EvTick}) })
	}
}

// operator words come from people: the API of whoever owns the host carries them out.
func switchOf(doc string, set func(h *host, on bool)) verb {
	return verb{"<hosts> on|off", doc, 2, 2, func(f *Fleet, args []string) (func(), error) {
		hosts, err := f.pick(args[0])
		if err == nil {
			err = oneOf("switch", 1, onOff...)(args)
		}
		return func() {
			for _, h := range hosts {
				set(h, args[1] == "on")
				h.stir()
				f.count(h)
				if o := h.owner; o != nil {
					o.post(o.tellPolicy)
				}
				f.parts[h.Partition].wake()
			}
		}, err
	}}
}

func levelSwitch(doc string, set func(s *Level, on bool)) verb {
	return verb{"<zone, pod or cluster> on|off", doc, 2, 2, func(f *Fleet, args []string) (func(), error) {
		if _, ok := f.levels[args[0]]; !ok {
			return nil, fmt.Errorf("partition %q is not in the topology", args[0])
		}
		return func() {
			s := f.levels[args[0]]
			set(&s, args[1] == "on")
			f.levels[args[0]] = s
			f.policyChanged()
		}, oneOf("switch", 1, onOff...)(args)
	}}
}

// What people order and switch.
var operatorVerbs = map[string]verb{
	"maintenance": switchOf("`holdfast host maintenance`", func(h *host, on bool) { h.Maintenance = on }),
	"exclude":     switchOf("`holdfast ha disable host/…`", func(h *host, on bool) { h.HADisabled = on }),
	"disable":     switchOf("the host itself is disabled", func(h *host, on bool) { h.Disabled = on }),
	"ha":          levelSwitch("`holdfast ha enable|disable` of a level", func(s *Level, on bool) { s.HADisabled = !on }),
	"level":       levelSwitch("the level itself is enabled or disabled", func(s *Level, on bool) { s.Disabled = !on }),
	"disarm": {"<scope> [<for>]", "`holdfast ha disarm`: automation may not act", 1, 2, func(f *Fleet, args []string) (func(), error) {
		return func() {
			d := time.Duration(0)
			if len(args) > 1 {
				d = span(args[1])
			}
			f.set(args[0], settingArmed, "false", "", d)
		}, firstErr(checkSetting(args[0], settingArmed, "false"), lasts(1)(args))
	}},
	"arm": {"<scope>", "`holdfast ha arm`", 1, 1, func(f *Fleet, args []string) (func(), error) {
		return func() { f.set(args[0], settingArmed, "", "", 0) }, checkSetting(args[0], settingArmed, "true")
	}},
	"set": {"<scope> <name> <value>", "a setting", 3, 3, func(f *Fleet, args []string) (func(), error) {
		return func() { f.set(args[0], args[1], args[2], "", 0) }, checkSetting(args[0], args[1], args[2])
	}},
	"order": {"<host> on|off|soft|reset|cycle|confirm-off|retry [<second operator>]", "an operator's order", 2, 3, func(f *Fleet, args []string) (func(), error) {
		hosts, err := f.pick(args[0])
		if err == nil {
			err = oneOf("order", 1, ha.OrderOn, ha.OrderOff, ha.OrderSoft, ha.OrderReset, ha.OrderCycle, ha.OrderConfirmOff, ha.OrderRetry)(args)
		}
		return func() {
			for _, h := range hosts {
				o := h.owner
				if o == nil {
					f.log.world(f.now, h.ID, "the order finds no owner: try again")
					continue
				}
				ord := ha.Order{Verb: ha.OrderVerb(args[1]), ID: fmt.Sprintf("o%d", f.q.seq), By: "ann"}
				if len(args) > 2 {
					ord.Second = args[2]
				}
				o.order(ord)
			}
		}, err
	}},
	"budget": {"grant <scope> <more> <for> | reset <scope>", "`holdfast ha budget`", 2, 4, func(f *Fleet, args []string) (func(), error) {
		by := budget.Human{By: "ann", Reason: "said so"}
		scope := args[1]
		if args[0] == "reset" {
			return func() {
				by.At = f.now
				f.budgets[scope] = f.budgets[scope].Reset(by)
				f.policyChanged()
			}, nil
		}
		if args[0] != "grant" || len(args) < 4 {
			return nil, fmt.Errorf("budget %s: wanted is grant <scope> <more> <for>, or reset <scope>", args[0])
		}
		n, err := strconv.Atoi(args[2])
		return func() {
			by.At = f.now
			f.budgets[scope] = f.budgets[scope].Grant(budget.Grant{Human: by, Extra: n, Until: f.now.Add(span(args[3]))})
			f.policyChanged()
		}, firstErr(err, lasts(3)(args))
	}},
	"explain": {"<hosts>", "adds to the story what `holdfast explain host` says then", 1, 1, func(f *Fleet, args []string) (func(), error) {
		hosts, err := f.pick(args[0])
		return func() {
			for _, h := range hosts {
				f.log.add(Entry{At: f.now.Sub(Start), Kind: "explain", Host: h.ID, Text: f.explain(h)})
			}
		}, err
	}},
}

func firstErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
