// SPDX-License-Identifier: Apache-2.0

package command

// judgeMigration: a running instance was to be moved by the hypervisors. Where it runs is
// the proof, and only both hosts together can tell it: one that has not answered and is
// not proven over may run it too.
func judgeMigration(r Record, e Evidence) Judgement {
	i, source, target := r.Spec.Instance, e.instance(r.Host), e.instance(r.Spec.Target)
	switch {
	case source.here() == CouldNotLook:
		return undetermined("instance %s on %s: %s", i, r.Host, orNothing(source.Why))
	case target.here() == CouldNotLook:
		return undetermined("instance %s on %s: %s", i, r.Spec.Target, orNothing(target.Why))
	case source.is(Running) && target.is(Running):
		j := undetermined("instance %s runs on %s and on %s", i, r.Host, r.Spec.Target)
		j.Split = true
		return j
	}
	job := e.Hosts[r.Host].Job
	switch {
	case !e.Hosts[r.Host].Answered: // proven over
	case job.Answer == Present:
		return Judgement{Verdict: InProgress, Reattach: true, Why: "the hypervisors are moving it", Ran: source.State}
	case job.Answer != Absent:
		return undetermined("migration of %s on %s: %s", i, r.Host, orNothing(job.Why))
	}
	switch {
	case source.gone() && target.is(Running), handedOver(r, e, source) && target.Answer == Present:
		return migrated(r, e, source, target)
	case source.is(Running) && target.gone(), source.is(Paused) && target.Answer == Absent:
		return stayed(r, e, "instance "+i+" is "+source.State+" on "+r.Host+", nothing of it moves", source, target)
	case target.is(Paused):
		return undetermined("instance %s is paused on %s, %s on %s: an end of a migration that has not been told how it went", i, r.Spec.Target, seen(source), r.Host)
	case source.is(Stopped) && target.gone():
		return stayed(r, e, "instance "+i+" is stopped on "+r.Host+" and does not run on "+r.Spec.Target, source, target)
	case e.Over[r.Host] != "" && !e.Hosts[r.Host].Answered && target.gone():
		return stayed(r, e, "instance "+i+" does not run on "+r.Spec.Target+", and "+r.Host+" is off: "+e.Over[r.Host], InstanceSight{Answer: Present, State: Stopped}, target)
	}
	return undetermined("instance %s is %s on %s and %s on %s", i, seen(source), r.Host, seen(target), r.Spec.Target)
}

// handedOver: the source, in the same boot, does not know the instance any more. Only a
// migration that ended leaves it to the target alone, whatever it does there since.
func handedOver(r Record, e Evidence, source InstanceSight) bool {
	h := e.Hosts[r.Host]
	return h.Answered && source.Answer == Absent && (r.Boot == "" || h.Boot == r.Boot)
}

// migrated: it runs at the target, and certainly not at the source.
func migrated(r Record, e Evidence, source, target InstanceSight) Judgement {
	for _, item := range r.Spec.Items {
		if !target.uses(item.To) {
			return undetermined("instance %s is on %s with %s, not with %s", r.Spec.Instance, r.Spec.Target, target.disks(), item.To)
		}
	}
	j := Judgement{Verdict: IsCompleted, Why: "instance " + r.Spec.Instance + " is " + target.State + " on " + r.Spec.Target + " and does not run on " + r.Host, Ran: target.State}
	defined := source.is(Stopped)
	if defined {
		j.Left = append(j.Left, Action{Deed: Undefine, Host: r.Host, Why: "it runs on " + r.Spec.Target})
	}
	for _, item := range r.Spec.Items {
		from, to := e.file(item.From, r.Host, r.Spec.Target), e.file(item.To, r.Spec.Target)
		left := sourceDeletion(e, r.Host, item, from, to, defined && source.mayUse(item.From))
		j.Left = append(j.Left, left...)
	}
	return j
}

// stayed: it is where it was; what was made for it at the target is of no use.
func stayed(r Record, e Evidence, why string, source, target InstanceSight) Judgement {
	j := Judgement{Verdict: IsFailed, Why: why, Ran: source.State}
	defined := target.is(Stopped)
	if defined {
		j.Left = append(j.Left, Action{Deed: Undefine, Host: r.Spec.Target, Why: "it is on " + r.Host})
	}
	for _, item := range r.Spec.Items {
		to := e.file(item.To, r.Host, r.Spec.Target)
		if to.Answer == Absent {
			continue
		}
		a := deletion(e, r.Spec.Target, item.To, to, "the volume stays at "+item.From.String())
		if a.Not == "" && defined && target.mayUse(item.To) {
			a.Not = "the instance's definition on " + r.Spec.Target + " still names it, or may"
		}
		j.Left = append(j.Left, a)
	}
	return j
}

func seen(s InstanceSight) string {
	if s.Answer == Present {
		return s.State
	}
	return string(s.here())
}

func orNothing(why string) string {
	if why == "" {
		return "not looked at"
	}
	return why
}
