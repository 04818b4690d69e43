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
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

type v1Event = v1.Event

// refreshPolicy resolves the settings that are effective for this host now.
func (o *owner) refreshPolicy() {
	var profile power.Profile
	o.eff, profile = o.w.view.resolved(o.spec.Val.Partition, o.host, o.now())
	o.devices = o.w.devices(o.spec.Val, profile)
	o.policy = policyOf(o.eff, o.devices, profile)
	o.policy.Fence.OnNotBefore = o.onNotBefore
	o.policy.Frozen, _ = o.w.frozen(o.host)
	o.policy.Disarmed = strings.Join(o.w.view.disarmed(o.spec.Val.Partition, o.host, o.now()), "; ")
}

// policyOf is the HA policy of one host: nothing but settings and its own devices.
func policyOf(e effective, devices []device, profile power.Profile) ha.Policy {
	p := ha.Policy{
		Mode:             e.String("ha.policy"),
		PingInterval:     e.Duration("agent.ping.interval"),
		HealthFailures:   e.Int("ha.health.failures"),
		CheckInitial:     e.Duration("ha.activity.interval.initial"),
		CheckMax:         e.Duration("ha.activity.interval.max"),
		CheckWindow:      e.Duration("ha.activity.window"),
		CheckTimeout:     e.Duration("ha.activity.timeout"),
		ActivityAttempts: e.Int("ha.activity.attempts"),
		DegradedAfter:    e.Int("ha.degraded.after"),
		FirstCheckAtOnce: e.Bool("ha.activity.first.at.once"),
		RecoveryAttempts: e.Int("ha.recovery.attempts"),
		RecoveryWait:     e.Duration("ha.recovery.wait"),
		OffConfirmDelay:  e.Duration("ha.off.confirm.delay"),
		ConfirmSilence:   e.Duration("ha.confirm.silence"),
		QuietPeriod:      e.Duration("ha.quiet.period"),
		SoftGrace:        e.Duration("power.soft.grace"),
		ProofMin:         assurance(e.String("ha.proof.min")),
		CanSwitchOn:      slices.ContainsFunc(devices, device.canSwitchOn),
		Ladder:           ladderOf(devices, profile, assurance(e.String("ha.proof.min"))),
		Fence: power.Limits{
			PacketTimeout:   e.Duration("power.packet.timeout"),
			StatusDeadline:  e.Duration("power.status.deadline"),
			CommandDeadline: e.Duration("power.command.deadline"),
			VerifyInterval:  e.Duration("power.verify.interval"),
			SettleWindow:    e.Duration("power.settle.window"),
			SettleReads:     e.Int("power.settle.reads"),
			RepeatOffAfter:  e.Duration("power.off.repeat"),
			MaxOffs:         e.Int("power.off.max"),
			OffToOn:         e.Duration("power.off.to.on"),
			OnDeadline:      e.Duration("power.on.deadline"),
			LevelDeadline:   e.Duration("ha.fence.level.timeout"),
			TotalDeadline:   e.Duration("ha.fence.timeout"),
		},
	}
	if e.String("ha.repair.command") != "" {
		p.RepairAttempts = e.Int("ha.repair.attempts")
	}
	return p
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

// applyPools makes the worker's pools as large as its settings say.
func (w *Worker) applyPools(e effective) {
	w.pools.activity.resize(e.Int("worker.activity.concurrency"))
	w.pools.recovery.resize(e.Int("worker.recovery.concurrency"))
	w.pools.reconcile.resize(e.Int("reconcile.workers"))
	n, per := e.Rate("worker.power.rate")
	w.pools.powerRate.SetLimit(rate.Limit(float64(n) / per.Seconds()))
	w.pools.powerRate.SetBurst(n)
}

// strayTime is how long after the takeover a packet of an earlier owner may still come:
// ON must wait for it (leases.md §3.5). An earlier owner that could have one on its way
// has left an intent; how its session ended decides.
func (o *owner) strayTime(ctx context.Context) (time.Duration, error) {
	var left intent
	rev, err := o.recall(leases.OpsKey(o.host), &left)
	if err != nil || rev == 0 {
		return 0, err
	}
	command := o.eff.Duration("power.command.deadline")
	// What its writer still had to wait for. Clamped: clocks differ.
	before := min(max(0, left.OnNotBefore.Sub(o.live.adopted)), o.s.TTL()+command)
	if left.Boot == o.s.Boot() {
		return before, nil
	}
	var end leases.EndRecord
	if _, err := o.fetch(ctx, leases.EndsKey(left.Worker, left.Boot), &end); err != nil {
		return 0, err
	}
	slot, _, _ := o.w.view.slotOwner(o.claim.Slot)
	switch handed := slot.Boot == o.s.Boot() && slot.From == left.Boot; {
	case end.How == leases.Released || end.How == leases.Reaped:
		return before, nil
	case end.How == leases.Expired: // whoever took its slots back, nobody knows what it does
		return max(before, command), nil
	case left.Boot != "" && handed: // by one that lives, after all work had stopped
		return before, nil
	}
	return o.s.TTL() + command, nil
}
