// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/provider"
	"github.com/holdfast-ha/holdfast/worker/provider/kvm"
)

// lookDone is what the provider of a resource without an agent saw of it.
type lookDone struct {
	by    string // as in liveFacts.sightBy
	sight provider.Sight
}

// providerOf finds a provider by the name in a host's spec. One that is not known here, as
// an older worker may find on record, protects nothing and says so.
func (w *Worker) providerOf(kind string) provider.Provider {
	if kind == "" {
		kind = kvm.Kind
	}
	if p := w.providers[kind]; p != nil {
		return p
	}
	return provider.Missing{Kind: kind, Known: w.providerKinds()}
}

func (w *Worker) providerKinds() []string { return slices.Sorted(maps.Keys(w.providers)) }

func (o *owner) provider() provider.Provider { return o.w.providerOf(o.spec.Val.Provider) }

// looker is the provider where it looks for itself; nil: agents ping.
func (o *owner) looker() provider.Looker {
	l, _ := o.provider().(provider.Looker)
	return l
}

// tellLooker begins or ends looking as declaration and settings say. What an earlier
// program saw is forgotten; first looks are spread, for many hosts are adopted at once.
func (o *owner) tellLooker() {
	by := ""
	if o.looker() != nil {
		by = o.provider().Describe().Kind + " " + o.eff.String(settingProgram)
	}
	if by == o.live.sightBy {
		return
	}
	o.live.sightBy, o.live.sight, o.live.fails, o.live.blinds = by, provider.Sight{}, 0, 0
	o.live.lookAt = time.Time{}
	if by != "" {
		o.live.lookAt = o.now().Add(rand.N(o.policy.PingInterval))
	}
}

// look asks the provider once, for no longer than an active probe may take.
func (o *owner) look() {
	l := o.looker()
	if l == nil {
		o.live.lookAt = time.Time{}
		return
	}
	o.live.lookAt = o.now().Add(o.policy.PingInterval)
	f, by, timeout := o.facts(), o.live.sightBy, o.eff.Duration("ha.health.timeout")
	o.jobs.begin(jobLook, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		o.in.put("", lookDone{by, l.Look(ctx, f)})
	})
}

// onLook is to a Looker's resource what onPing is to a host with an agent: a pass is a
// ping. As many fails in a row as pings may be missed are a failed health check; unknown is
// none, however often, but somebody is told.
func (o *owner) onLook(ctx context.Context, m lookDone) {
	o.jobs.end(jobLook)
	if m.by != o.live.sightBy || m.by == "" {
		return // what another program saw
	}
	s := m.sight
	o.live.sight = s
	switch s.Health.Verdict {
	case ha.Pass:
		o.lookPassed(ctx, s)
	case ha.Fail:
		o.tellEligible(ctx)
		if o.live.fails++; o.live.fails < o.policy.HealthFailures {
			o.publish()
			return
		}
		o.lookedFor()
		if why, _ := o.w.frozen(o.host); why == "" {
			now := o.now()
			o.step(ctx, ha.Event{Kind: ha.EvHealth, At: now, Verdict: ha.Fail, Reason: s.Health.Reason, Life: ha.HeardBy(o.live.lastPing, now)})
		}
	default:
		o.tellEligible(ctx)
		if o.live.blinds++; o.live.blinds < o.policy.HealthFailures {
			o.publish()
			return
		}
		if o.live.blinds == o.policy.HealthFailures {
			o.tellSight(ctx, "provider.blind", ha.Warning, fmt.Sprintf("nobody can tell whether %s is healthy, it stays %s: %s", o.host, o.rec.State, s.Health.Reason))
		}
		o.lookedFor()
	}
}

func (o *owner) lookPassed(ctx context.Context, s provider.Sight) {
	if o.live.blinds >= o.policy.HealthFailures {
		o.tellSight(ctx, "provider.sees", ha.Info, "the health of "+o.host+" can be told again")
	}
	o.live.fails, o.live.blinds = 0, 0
	o.heard(s.Asked, s.Boot)
	now := o.now()
	if o.rec.Boot.ID != s.Boot {
		o.step(ctx, ha.Event{Kind: ha.EvHello, At: now, Boot: s.Boot, Instances: s.Instances})
	}
	if g := o.rec.Gate; g != nil && !g.Confirmed && s.Gate == g.Generation {
		o.step(ctx, ha.Event{Kind: ha.EvGate, At: now, ID: s.Gate})
	}
	o.tellEligible(ctx)
	o.step(ctx, ha.Event{Kind: ha.EvHealth, At: now, Verdict: ha.Pass, Reason: s.Health.Reason, Boot: s.Boot, Life: ha.HeardBy(s.Asked, now), Instances: s.Instances})
	o.publish()
}

// lookedFor: the resource is not heard any more. A worker that loses many at once is
// likely to be blind itself (guard self).
func (o *owner) lookedFor() {
	if !o.live.missing {
		o.live.missing = true
		o.w.lostAgents.add(o.host, o.now())
	}
	o.publish()
}

func (o *owner) tellSight(ctx context.Context, typ string, s ha.Severity, msg string) {
	x := o.plainEvent(typ, s, msg, map[string]string{"provider": o.provider().Describe().Kind})
	if _, ok := o.put(ctx, o.claim.Guard(), []leases.Op{leases.Put(leases.EventKey(x.ID), x)}); ok {
		o.w.announced([]v1.Event{x})
	}
}

// lookNow has the owner of a host look at it without waiting for its turn; false: an agent
// is to be asked.
func (w *Worker) lookNow(host string) bool {
	p := w.shown.get(host)
	if p == nil || !p.looked {
		return false
	}
	p.owner.in.put("look", lookSoon{})
	return true
}

// lookSoon asks for a look at once.
type lookSoon struct{}

// unjudged lists the hosts of this worker whose provider cannot tell whether they are healthy.
func (w *Worker) unjudged() (out []string) {
	w.shown.all.Range(func(host, e any) bool {
		if p := e.(*entry).Load(); p != nil && p.blind {
			out = append(out, host.(string))
		}
		return true
	})
	slices.Sort(out)
	return out
}
