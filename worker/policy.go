// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

type v1Event = v1.Event

// refreshPolicy resolves the settings that are effective for this host now.
func (o *owner) refreshPolicy() {
	var profile power.Profile
	o.eff, profile = o.w.view.resolved(o.spec.Val.Partition, o.host, o.now())
	o.devices = o.w.devices(o.spec.Val, profile)
	o.policy = policyOf(o.eff, o.devices, profile).Paced(o.live.pace()).ReadBy(o.w.view.readersStamps(o.spec.Val.Partition, o.host, o.now()))
	o.settings = o.wireSettings()
	o.policy.Fence.OnNotBefore = o.onNotBefore
	o.policy.Fence.OnDeadline += max(0, o.sessions.Sub(o.now())) // ON may be refused as long
	o.policy.Frozen, _ = o.w.frozen(o.host)
	o.policy.Disarmed = strings.Join(o.w.view.disarmed(o.spec.Val.Partition, o.host, o.now()), "; ")
}

// policyOf is the HA policy of one host: nothing but settings and its own devices.
func policyOf(e effective, devices []device, profile power.Profile) ha.Policy {
	proof := assurance(e.String("ha.proof.min"))
	return ha.PolicyOf(e, proof, ladderOf(devices, profile, proof), slices.ContainsFunc(devices, device.canSwitchOn))
}

// assurance reads what the catalogue has checked; anything else asks for the most.
func assurance(s string) power.Assurance {
	var a power.Assurance
	if a.UnmarshalText([]byte(s)) != nil {
		return power.A5
	}
	return a
}

// duration reads what was checked where it was written.
func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0
	}
	return d
}

// readersStamps are the stamp intervals of a host's neighbours as they are set; of all that
// nothing is said of for themselves two will do (ha.Policy.ReadBy).
func (v *view) readersStamps(path, host string, now time.Time) (out []time.Duration) {
	const name = "ha.stamp.interval"
	var own []string // neighbours with settings of their own
	v.mu.RLock()
	members := v.byPart[path]
	others := len(members)
	if members[host] {
		others--
	}
	set := func(id string) {
		s := v.settings["host/"+id]
		_, stamp := s[name]
		_, preset := s[settings.Preset]
		if (stamp || preset) && members[id] && id != host {
			own = append(own, id)
		}
	}
	if len(members) < len(v.settings) {
		for id := range members {
			set(id)
		}
	} else {
		for scope := range v.settings {
			if id, is := strings.CutPrefix(scope, "host/"); is {
				set(id)
			}
		}
	}
	v.mu.RUnlock()
	for range min(2, others-len(own)) {
		out = append(out, v.effective(path, "", now).Duration(name))
	}
	for _, id := range own {
		out = append(out, v.effective(path, id, now).Duration(name))
	}
	return out
}

// applyPools makes the worker's pools as large as its settings say.
func (w *Worker) applyPools(e effective) {
	w.pools.activity.resize(e.Int("worker.activity.concurrency"))
	w.pools.recovery.resize(e.Int("worker.recovery.concurrency"))
	w.pools.reconcile.resize(e.Int("reconcile.workers"))
	n, per := e.Rate("worker.power.rate")
	w.pools.powerRate.SetLimit(rate.Limit(float64(n) / per.Seconds()))
	w.pools.powerRate.SetBurst(n)
}

// sessionIdle is after how much silence a BMC frees a session: 60 s ± 3 s by IPMI.
const sessionIdle = 65 * time.Second

// stray is how long after the takeover something of an earlier owner may still be there.
type stray struct {
	packet  time.Duration // on its way: ON must wait for it
	session time.Duration // open on a BMC: a process that was stopped sends through it when it wakes
}

// strayTime tells what ON must wait for (leases.md §3.5, §3.6). An earlier owner that could
// have a packet on its way has left an intent; how its session ended decides.
func (o *owner) strayTime(ctx context.Context) (stray, error) {
	var left intent
	rev, err := o.recall(leases.OpsKey(o.host), &left)
	if err != nil || rev == 0 {
		return stray{}, err
	}
	command := o.eff.Duration("power.command.deadline")
	// What its writer still had to wait for. Clamped: clocks differ.
	still := func(until time.Time, most time.Duration) time.Duration {
		return min(max(0, until.Sub(o.live.adopted)), most)
	}
	before := stray{still(left.OnNotBefore, o.s.TTL()+command), still(left.Sessions, o.s.TTL()+sessionIdle)}
	if left.Boot == o.s.Boot() {
		return before, nil
	}
	var end leases.EndRecord
	if _, err := o.fetch(ctx, leases.EndsKey(left.Worker, left.Boot), &end); err != nil {
		return stray{}, err
	}
	slot, _, _ := o.w.view.slotOwner(o.claim.Slot)
	switch handed := slot.Boot == o.s.Boot() && slot.From == left.Boot; {
	case end.How == leases.Released || end.How == leases.Reaped:
		return before, nil
	case end.How == leases.Expired: // whoever took its slots back, nobody knows what it does
		return stray{max(before.packet, command), max(before.session, sessionIdle)}, nil
	case left.Boot != "" && handed: // by one that lives, after all work had stopped
		return before, nil
	}
	return stray{o.s.TTL() + command, o.s.TTL() + sessionIdle}, nil
}
