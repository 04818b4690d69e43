// SPDX-License-Identifier: Apache-2.0

package execprovider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
	"github.com/holdfast-ha/holdfast/worker/provider"
)

// Kind is the provider's name in host specs.
const Kind = "exec"

// Setting names the program, with the usual scopes.
const Setting = "ha.exec.program"

// How many programs run at once: looks do not wait for checks, and neither for the power
// devices, which have places of their own.
const (
	maxLooks  = 32
	maxChecks = 64
)

// eligibleFor is how long a word on eligibility is handed on.
const eligibleFor = time.Minute

// Provider implements provider.Provider, Looker and Checker.
type Provider struct {
	looks, checks *proc.Runner
	owners        []uint32
}

// New makes the provider. Besides root's, programs of owners are run.
func New(owners ...uint32) *Provider {
	return &Provider{looks: proc.NewRunner(maxLooks), checks: proc.NewRunner(maxChecks), owners: append([]uint32{0}, owners...)}
}

// Describe implements provider.Provider. A program sees for itself, so one resource is
// enough.
func (*Provider) Describe() provider.Descriptor {
	return provider.Descriptor{Kind: Kind, Resource: "whatever the program of setting " + Setting + " knows", Partitions: provider.PartitionKinds,
		Needed: ha.Needed{Members: 1}}
}

// Check implements provider.Checker.
func (p *Provider) Check(f provider.Facts) error {
	if f.Program == "" {
		return fmt.Errorf("setting %s is empty at this scope, and provider %s runs nothing else: allowed is an absolute path", Setting, Kind)
	}
	if e := proc.Trusted("check provider exec", "setting "+Setting, f.Program, p.owners); e != nil {
		return e
	}
	return nil
}

// Eligible implements provider.Provider.
func (p *Provider) Eligible(f provider.Facts) (ha.Verdict, string) {
	if !f.PowerTested {
		return ha.Fail, f.PowerWhy
	}
	if f.Sight.EligAt.IsZero() {
		return ha.Unknown, "its program was not asked yet"
	}
	return f.Sight.Eligible.Verdict, f.Sight.Eligible.Reason
}

// Health implements provider.Provider.
func (*Provider) Health(f provider.Facts, _ *agentpb.Report) (ha.Verdict, string) {
	if f.Sight.Asked.IsZero() {
		return ha.Unknown, "its program was not asked yet"
	}
	return f.Sight.Health.Verdict, f.Sight.Health.Reason
}

// Look implements provider.Looker: health each time, eligibility once a minute. A program
// that may not be run answers nothing: the resource cannot be protected.
func (p *Provider) Look(ctx context.Context, f provider.Facts) provider.Sight {
	s := provider.Sight{Asked: time.Now().UTC(), Eligible: f.Sight.Eligible, EligAt: f.Sight.EligAt}
	if err := p.Check(f); err != nil {
		no := provider.Finding{Verdict: ha.Fail, Reason: err.Error()}
		s.Health, s.Eligible, s.EligAt = provider.Finding{Verdict: ha.Unknown, Reason: no.Reason}, no, s.Asked
		return s
	}
	q := ask(f)
	q.Gate, q.MustNotRun = f.Gate, f.MustNotRun
	a, v, why := p.run(ctx, p.looks, f, health, q)
	s.Health = provider.Finding{Verdict: v, Reason: why}
	s.Boot, s.Instances, s.Gate = a.Boot, a.Instances, a.Gate
	if s.EligAt.IsZero() || s.Asked.Sub(s.EligAt) >= eligibleFor || s.Asked.Before(s.EligAt) || f.Sight.Eligible.Verdict != ha.Pass {
		_, v, why := p.run(ctx, p.looks, f, eligible, ask(f))
		if v != ha.Unknown || s.EligAt.IsZero() { // what cannot be judged keeps its last answer
			s.Eligible, s.EligAt = provider.Finding{Verdict: v, Reason: why}, s.Asked
		}
	}
	return s
}

// Activity implements provider.Provider.
func (p *Provider) Activity(ctx context.Context, q provider.Question) ha.Check {
	c := ha.Check{ID: q.ID, Asked: q.Asked, Verdict: ha.Unknown}
	f := q.Subject
	if err := p.Check(f); err != nil {
		c.Reason, c.Done = err.Error(), time.Now().UTC()
		return c
	}
	in := ask(f)
	in.ID, in.Window = q.ID, q.Window.Seconds()
	for _, r := range q.Readers {
		in.Neighbours = append(in.Neighbours, r.Host)
	}
	a, v, why := p.run(ctx, p.checks, f, activity, in)
	c.Verdict, c.Reason, c.Votes, c.Signals, c.Done = v, why, a.ballot(), a.families(), time.Now().UTC()
	if v != ha.Active && f.LinkAlive { // one that passes is not idle, whatever its program saw
		c.Verdict, c.Reason, c.Signals.Agent = ha.Active, "its health check passes", guard.FamilyAlive
	}
	return c
}

func ask(f provider.Facts) question {
	q := question{Version: Version, Host: f.Host, Partition: f.Partition, Labels: f.Labels}
	if q.Labels == nil {
		q.Labels = map[string]string{}
	}
	return q
}

// run asks the program once; what is not an answer is unknown, with why.
func (p *Provider) run(ctx context.Context, r *proc.Runner, f provider.Facts, a action, q question) (answer, ha.Verdict, string) {
	unknown := func(err error) (answer, ha.Verdict, string) {
		return answer{}, ha.Unknown, power.Detail(fmt.Sprintf("its program could not tell (%s): %v", a.name, err), power.Credential{})
	}
	q.Action = a.name
	deadline, ok := ctx.Deadline()
	if !ok {
		return unknown(errors.New("no deadline"))
	}
	q.Deadline = deadline.UTC()
	in, err := json.Marshal(q)
	if err != nil {
		return unknown(err)
	}
	res, e := r.Run(ctx, proc.Command{Op: "ask " + a.name + " of " + f.Host, Path: f.Program, Args: []string{a.name}, Stdin: in})
	if e != nil {
		if e.Kind == corepower.Timeout {
			return unknown(errors.New("it did not answer in time and was killed"))
		}
		return unknown(e)
	}
	got, verdict, err := a.parse(res)
	if err != nil {
		return unknown(err)
	}
	return got, verdict, got.Reason
}

var (
	_ provider.Looker  = (*Provider)(nil)
	_ provider.Checker = (*Provider)(nil)
)
