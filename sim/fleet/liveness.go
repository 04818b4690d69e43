// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// Heal takes away every fault that hosts share and every switch that people have set, and
// starts all workers. What happened to the machines themselves stays as it is, and lines
// of the script that still wait for something do not happen any more.
func (f *Fleet) Heal() {
	f.healed = true
	for n := range f.nets {
		f.nets[n] = true
	}
	for _, s := range f.switches {
		s.state = switchUp
	}
	for _, p := range f.pools {
		p.mode = poolOK
	}
	for _, r := range f.racks {
		r.mains = true
	}
	for _, p := range f.pdus {
		p.alive = true
	}
	for path := range f.levels {
		f.levels[path] = Level{}
	}
	for scope := range f.settings {
		delete(f.settings[scope], settingArmed)
	}
	clear(f.budgets)
	for _, h := range f.hosts {
		h.touched = f.now
		h.Maintenance, h.HADisabled, h.Disabled = false, false, false
		h.cut, h.badPool, h.hv, h.deaf, h.quiet, h.NoProbes = [networks]bool{}, map[string]poolMode{}, true, false, false, false
		h.bmc.mode = bmcOK
		if h.works() {
			h.agent = true
		}
		h.refeed()
		f.count(h)
	}
	f.version++
	for _, w := range f.workers {
		w.touched, w.isolated = f.now, false
		if w.noEtcd {
			w.noEtcd = false
			w.uncut()
		}
		w.restart()
	}
	f.setEtcd(true)
	f.policyChanged()
}

// Unfinished lists what is still open though nothing hinders it any more: hosts that
// live and answer and are not AVAILABLE, and dead ones that nobody has finished with. A
// dead host may wait for a human, for a storm to end or for somebody who can look at it;
// then it says so.
func (f *Fleet) Unfinished() (out []string) {
	for _, h := range f.hosts {
		tell := func(why string) {
			out = append(out, fmt.Sprintf("%s is %s since %s, in truth it %s: %s; %s", h.ID, h.rec.State, stamp(h.rec.Since.Sub(Start)), is(h.really()), h.rec.Reason, why))
		}
		switch {
		case h.owner == nil:
			tell("nobody owns it")
		case h.healthy() && h.rec.State != ha.Available:
			if p := f.parts[h.Partition].rec.State; p != ha.PartitionActive && h.rec.State == ha.None {
				continue
			}
			if h.waits() == "" || h.rec.State == ha.Fenced {
				tell("it answers")
			}
		case !h.works():
			if why := h.unfinished(); why != "" {
				tell(why)
			}
		}
	}
	return out
}

// waits says what a healthy host rightly waits for.
func (h *host) waits() string {
	r := h.rec
	switch {
	case r.State == ha.Unsupported && (r.OrderedOff || r.Eligible == ha.Fail):
		return r.Reason
	case h.chassis && r.State == ha.Initializing && r.Power.String() != "ON":
		return r.Reason
	}
	return ""
}

// unfinished says what is missing for a dead host; "": it is done, or waits rightly.
func (h *host) unfinished() string {
	r := h.rec
	switch r.State {
	case ha.Fenced, ha.Failed, ha.Unsupported, ha.None, ha.Ineligible:
		return ""
	case ha.Available:
		return "nobody noticed"
	}
	if h.f.now.Sub(r.Since) < 15*time.Minute && r.State != ha.Suspect {
		return "" // something is under way
	}
	holds := r.Holds()
	if len(holds) == 0 {
		return "nothing holds it"
	}
	if h.f.effective(h).policy.Mode == "observe" {
		return ""
	}
	rightly := func(x ha.Hold) bool {
		return slices.Contains([]string{"share", "common cause", "storage", "cooldown", "activity", "eligible", "manual", "power", "signals", "attempt"}, x.By)
	}
	if !slices.ContainsFunc(holds, rightly) {
		return "held by " + holds[0].By + ", which is gone"
	}
	if h.alone() {
		return fmt.Sprintf("held by %s: %s, though it is the only one", holds[0].By, holds[0].Reason)
	}
	return ""
}

// alone: of its whole zone this host alone is not well, others can look at it, and its
// device tells the truth; nothing at all should hold it then.
func (h *host) alone() bool {
	others := 0
	for _, m := range h.f.hosts {
		if m == h {
			continue
		}
		if !m.healthy() || m.rec.State != ha.Available {
			return false
		}
		if m.Partition == h.Partition {
			others++
		}
	}
	seen := h.rec.SeenDisks || h.rec.SeenProbe
	return others > 0 && seen && len(h.rec.Contradicted) == 0 && slices.Contains(h.Power, "bmc") && h.fed
}

// Repair mends every machine and switches on what is off, as a technician would.
func (f *Fleet) Repair() {
	for _, h := range f.hosts {
		h.repair()
	}
}

// Break crashes one host: its kernel dies, it would boot again.
func (f *Fleet) Break(id string) {
	if h := f.byID[id]; h != nil {
		h.die()
	}
}
