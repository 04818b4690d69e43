// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/coordinator/replay"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// caseFile is an incident as it is on record: of an open one, and of the last one of a
// host that is FENCED or FAILED, with the host's record.
type caseFile struct {
	host   string
	inc    ha.Incident
	record *ha.Record
}

func (c caseFile) open() bool { return c.inc.Ended.IsZero() }

// caseOf finds an incident: in the record of its host, or among those that have ended.
func (b *backend) caseOf(ctx context.Context, id string) (caseFile, error) {
	b.view.mu.RLock()
	for h, r := range b.view.ha {
		if i := r.Val.Incident; i != nil && i.ID == id {
			rec := r.Val
			b.view.mu.RUnlock()
			return caseFile{host: h, inc: *i, record: &rec}, nil
		}
	}
	b.view.mu.RUnlock()
	host := hostOf(id)
	if host == "" || leases.CheckID("host", host) != nil {
		return caseFile{}, notFound("incident", id)
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kv, err := b.client.Get(ctx, leases.IncidentKey(host, id))
	switch {
	case errors.Is(err, leases.ErrNotFound):
		return caseFile{}, notFound("incident", id)
	case err != nil:
		return caseFile{}, etcdProblem("incident "+id, err)
	}
	c := caseFile{host: host}
	if _, err := decode(kv, &c.inc); err != nil {
		return caseFile{}, err
	}
	return c, nil
}

// outcomes in words.
var outcomes = map[string]string{
	"fenced":       "the host is proven off; its instances may run elsewhere",
	"failed":       "no proof could be had that the host is off; its instances were not released and a human was paged",
	"alive":        "the host answered again, with the same boot; nothing is to be restarted",
	"contradicted": "the host answered although a device had read OFF: that device is not believed any more",
	"recovered":    "the host was power cycled, came back with a new boot and is AVAILABLE",
	"rebooted":     "the host came back with a new boot by itself: the old one is over",
	"by operator":  "an operator has taken the host out of HA",
	"abandoned":    "its power read ON again, or it gave a sign of life, before OFF was proven: nothing was cut",
	"not eligible": "the host is not eligible for HA any more",
}

// ExplainIncident implements api.Backend.
func (b *backend) ExplainIncident(ctx context.Context, id string) (v1.Explanation, error) {
	c, err := b.caseOf(ctx, id)
	if err != nil {
		return v1.Explanation{}, err
	}
	i := &c.inc
	x := v1.Explanation{Subject: "incident " + id + " of host " + c.host, State: "ended", Since: i.Ended, Story: entriesOf(i.Ledger),
		Why: []string{fmt.Sprintf("it began at %s: %s", i.Opened.UTC().Format(time.RFC3339), i.Cause)}}
	if i.Guards != nil {
		x.Guards = answersOf(i.Guards.Answers)
	}
	if !c.open() {
		x.Why = append(x.Why, fmt.Sprintf("it ended with %s: %s", i.Outcome, orElse(outcomes[i.Outcome], "see its story")))
		if p := i.Proof; p != nil {
			x.Evidence = append(x.Evidence, fmt.Sprintf("proof %s (%s) at %s: boot %s is over", p.Assurance, p.How, p.At.UTC().Format(time.RFC3339), orElse(p.Boot, "(unknown)")))
		}
		if k := i.Last; k != nil {
			x.Evidence = append(x.Evidence, fmt.Sprintf("last check at %s: %s: %s", k.Asked.UTC().Format(time.RFC3339), verdictWord(k.Verdict), k.Reason))
			for _, v := range k.Votes {
				x.Evidence = append(x.Evidence, fmt.Sprintf("%s saw: %s: %s", v.Reader, verdictWord(v.Verdict), v.Reason))
			}
		}
		x.Next = []string{"nothing: it is over; a new suspicion opens a new incident"}
		x.OperatorMay = []string{"`holdfast incident report " + id + "` tells it in plain words", "`holdfast incident export " + id + " > FILE`, then `holdfast replay FILE`: would today's code decide the same?"}
		if r := c.record; r != nil && (r.State == ha.Fenced || r.State == ha.Failed) {
			h := ha.Explain(*r, b.policyNow(c.host), time.Now().UTC())
			x.WhyNot, x.WouldChange = h.WhyNot, h.WouldChange
			x.Next = append([]string{fmt.Sprintf("the host is still %s since %s", r.State, r.Since.UTC().Format(time.RFC3339))}, h.Next...)
			x.OperatorMay = append(h.OperatorMay, x.OperatorMay...)
		}
		return x, nil
	}
	now, err := b.ExplainHost(ctx, c.host)
	if err != nil {
		return v1.Explanation{}, err
	}
	x.State, x.Since = now.State, i.Opened
	x.Why = append(x.Why, now.Why...)
	x.WhyNot, x.Evidence, x.Holds, x.Next, x.WouldChange, x.OperatorMay = now.WhyNot, now.Evidence, now.Holds, now.Next, now.WouldChange, now.OperatorMay
	return x, nil
}

// policyNow are the settings of a host as they are effective now.
func (b *backend) policyNow(host string) ha.Policy {
	spec, _ := b.view.spec(host)
	eff, profile := b.view.resolved(spec.Val.Partition, host, time.Now())
	return policyOf(eff, b.w().devices(spec.Val, profile), profile)
}

// ExportIncident implements api.Backend.
func (b *backend) ExportIncident(ctx context.Context, id string) (v1.IncidentExport, error) {
	c, err := b.caseOf(ctx, id)
	if err != nil {
		return v1.IncidentExport{}, err
	}
	state := ""
	if c.record != nil {
		state = string(c.record.State)
	}
	x := v1.IncidentExport{Format: v1.IncidentFormat, Version: v1.IncidentVersion, Exported: time.Now().UTC(), Software: b.o.Version, Incident: incidentOf(c.host, state, &c.inc)}
	if spec, ok := b.view.spec(c.host); ok {
		x.Partition = spec.Val.Partition
	}
	if x.Incident.Proof == nil && c.record != nil && c.record.Proof != nil && !c.record.Proof.At.Before(c.inc.Opened) {
		x.Incident.Proof = proofOf(c.record.Proof)
	}
	lctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kvs, _, err := b.client.List(lctx, leases.StepsOf(c.host, id))
	if err != nil {
		return v1.IncidentExport{}, etcdProblem("steps of incident "+id, err)
	}
	var steps []replay.Step
	for _, kv := range kvs {
		var s replay.Step
		if _, err := decode(kv, &s); err != nil {
			return v1.IncidentExport{}, err
		}
		steps, x.Steps = append(steps, s), append(x.Steps, json.RawMessage(kv.Value))
	}
	if len(steps) > 0 {
		fromSteps(&x, steps)
	}
	fromRecord(&x, &c.inc, len(steps))
	if err := b.logOf(ctx, &x); err != nil {
		return v1.IncidentExport{}, err
	}
	return withoutSecrets(x)
}

func proofOf(p *ha.Proof) *v1.Proof {
	if p == nil {
		return nil
	}
	return &v1.Proof{Boot: p.Boot, Assurance: p.Assurance.String(), How: p.How, At: p.At, Revoked: p.Revoked, Instances: p.Instances, Local: p.Local}
}

// fromSteps takes checks, evaluations of the guards, packets and what ran there from the
// recorded decisions.
func fromSteps(x *v1.IncidentExport, steps []replay.Step) {
	records := replay.Records(steps)
	checks := map[string]bool{}
	packets := map[string]int{} // by transaction and number
	for k, s := range steps {
		if s.Base != nil && s.N == 0 {
			x.Instances = s.Base.Instances
		}
		if t := s.Event.Txn; t != nil && t.Seq > 0 {
			if n, ok := packets[fmt.Sprint(t.Txn, "/", t.Seq)]; ok {
				x.Packets[n].Answered, x.Packets[n].Answer = t.At, replay.Answer(*t)
			}
		}
		for _, e := range s.Effects {
			if t := e.Txn; t != nil && t.Do != power.DoEnd {
				packets[fmt.Sprint(t.Txn, "/", t.Seq)] = len(x.Packets)
				x.Packets = append(x.Packets, v1.IncidentPacket{At: s.Event.At, Txn: t.Txn, Seq: t.Seq, Device: t.Device, Do: string(t.Do), Verb: string(t.Verb)})
			}
		}
		r := records[k]
		if r == nil || r.Incident == nil || r.Incident.ID != x.Incident.ID {
			continue
		}
		if c := r.Incident.Last; c != nil && !checks[c.ID] {
			checks[c.ID] = true
			x.Checks = append(x.Checks, checkOf(c))
		}
		if g := r.Incident.Guards; s.Event.Snapshot != nil && g != nil && g.At.Equal(s.Event.Snapshot.At) {
			snap, _ := json.Marshal(s.Event.Snapshot) // it came from JSON
			x.Rounds = append(x.Rounds, v1.GuardRound{At: g.At, Purpose: string(g.Purpose), Allowed: g.Allowed(), Answers: answersOf(g.Answers), Snapshot: snap})
		}
	}
}

func checkOf(c *ha.Check) v1.IncidentCheck {
	out := v1.IncidentCheck{ID: c.ID, Asked: c.Asked, Done: c.Done, Verdict: verdictWord(c.Verdict), Reason: c.Reason}
	for _, v := range c.Votes {
		out.Votes = append(out.Votes, v1.Vote{Reader: v.Reader, Verdict: verdictWord(v.Verdict), Reason: v.Reason})
	}
	return out
}

// fromRecord adds what the incident itself keeps, and says what is not kept.
func fromRecord(x *v1.IncidentExport, i *ha.Incident, steps int) {
	if c := i.Last; c != nil && !slices.ContainsFunc(x.Checks, func(k v1.IncidentCheck) bool { return k.ID == c.ID }) {
		x.Checks = append(x.Checks, checkOf(c))
	}
	if g := i.Guards; g != nil && !slices.ContainsFunc(x.Rounds, func(r v1.GuardRound) bool { return r.At.Equal(g.At) }) {
		snap, _ := json.Marshal(g.Snapshot) // it came from JSON
		x.Rounds = append(x.Rounds, v1.GuardRound{At: g.At, Purpose: string(g.Purpose), Allowed: g.Allowed(), Answers: answersOf(g.Answers), Snapshot: snap})
	}
	if len(x.Packets) == 0 && i.Action != nil {
		for _, e := range i.Action.Progress.Evidence {
			x.Packets = append(x.Packets, v1.IncidentPacket{At: e.At, Txn: i.Action.ID, Device: e.Device, Do: "note", Answered: e.At, Answer: e.Text})
		}
	}
	switch {
	case i.Steps == 0:
		x.Missing = append(x.Missing, "the inputs of its decisions were not recorded: it cannot be replayed")
	case steps == 0:
		x.Missing = append(x.Missing, fmt.Sprintf("the inputs of its %d decisions are not kept any more: it cannot be replayed, and only the last check, guards and transaction are here", i.Steps))
	case steps < i.Steps:
		x.Missing = append(x.Missing, fmt.Sprintf("of %d decisions the first %d and the newest %d are kept with their inputs", i.Steps, replay.HeadSteps, steps-replay.HeadSteps))
	}
	if len(i.Ledger) >= ha.MaxLedger {
		x.Missing = append(x.Missing, fmt.Sprintf("of its story the newest %d lines are kept", ha.MaxLedger))
	}
}

// logOf adds the events of the incident, and of its host meanwhile, and what people have
// done there.
func (b *backend) logOf(ctx context.Context, x *v1.IncidentExport) error {
	i := &x.Incident
	until := time.Now()
	if !i.Ended.IsZero() {
		until = i.Ended.Add(time.Minute)
	}
	all, err := b.Events(ctx, api.EventFilter{})
	if err != nil {
		return err
	}
	for _, e := range all {
		meanwhile := !e.At.Before(i.Opened.Add(-time.Minute)) && !e.At.After(until)
		here := e.Host == i.Host || e.Host == "" && (e.Partition == "" || within(x.Partition, e.Partition))
		switch {
		case e.Incident == i.ID, meanwhile && e.Host == i.Host:
			x.Events = append(x.Events, e)
		case !meanwhile || !here || e.Data["by"] == "":
			continue
		}
		if who := e.Data["by"]; who != "" {
			x.Operators = append(x.Operators, v1.Audit{ID: e.ID, At: e.At, Who: who, What: e.Type, Message: e.Message, Reason: e.Data["reason"], Host: e.Host, Worker: e.Worker})
		}
	}
	if old := time.Since(i.Opened) > maxEventAge; old {
		x.Missing = append(x.Missing, fmt.Sprintf("events of the log are kept for %d days", maxEventAge/(24*time.Hour)))
	}
	return nil
}
