// SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"strings"
)

// Verdict is what the evidence shows.
type Verdict string

// The verdicts.
const (
	Undetermined Verdict = "undetermined" // look again
	InProgress   Verdict = "in-progress"  // wait, re-attach where nobody waits for its end
	IsCompleted  Verdict = "completed"
	IsFailed     Verdict = "failed" // the source is intact
)

// Judgement is a verdict with its reason and what it leaves to tidy.
type Judgement struct {
	Verdict  Verdict
	Why      string
	Reattach bool   // in progress, and no agent waits for the end
	Split    bool   // the instance runs twice: seen in two looks in a row, no later one is waited for
	Ran      string // what the instance was seen to do where it is
	Left     []Action
}

func undetermined(format string, args ...any) Judgement {
	return Judgement{Verdict: Undetermined, Why: fmt.Sprintf(format, args...)}
}

// Judge says what became of a command (commands.md "Reconciling"). It is pure; an answer
// other than undetermined rests on what was seen, never on what was not.
func Judge(r Record, e Evidence) Judgement {
	for _, host := range r.Spec.Hosts(r.Host) {
		if h := e.Hosts[host]; h.Answered && h.Working {
			return Judgement{Verdict: InProgress, Why: "the agent of " + host + " is at work on it"}
		}
	}
	switch {
	case r.Kind == Migrate:
		return judgeMigration(r, e)
	case len(r.Spec.Items) != 1:
		return undetermined("a record of %d volumes, want 1", len(r.Spec.Items))
	case r.Kind == MigrateVolume && r.Spec.Live:
		return judgeBlockCopy(r, e, r.Spec.Items[0])
	case r.Kind == MigrateVolume || r.Kind == Copy:
		return judgeCopy(r, e, r.Spec.Items[0])
	}
	return undetermined("kind %q is not known here", r.Kind)
}

// judgeCopy: a file that nobody writes to was to be copied under a temporary name, made
// durable, and given its final name at once. So the final name is the proof of completion.
func judgeCopy(r Record, e Evidence, item Item) Judgement {
	hosts := r.Spec.Hosts(r.Host)
	if !e.certain(r.Host) {
		return undetermined("host %s has not answered and is not proven over: it may still be copying", r.Host)
	}
	final, temp, from := e.file(item.To, hosts...), e.file(item.Temp(), hosts...), e.file(item.From, hosts...)
	sight := e.instance(r.Host)
	if r.Spec.Instance != "" {
		switch {
		case sight.here() == CouldNotLook:
			return undetermined("what instance %s uses is not known: %s", r.Spec.Instance, sight.Why)
		case sight.Answer == Present && sight.State != Stopped && sight.uses(item.From):
			// Somebody started it meanwhile: what it writes is not in the copy.
			return failedCopy(r, e, item, "instance "+r.Spec.Instance+" is "+sight.State+" on "+item.From.String()+": what it writes is not in the copy", sight.State, final, temp)
		case sight.Answer == Present && sight.State != Stopped && !sight.uses(item.To) && sight.mayUse(item.From):
			return undetermined("instance %s is %s on %s: whether one of them is %s cannot be told", r.Spec.Instance, sight.State, sight.disks(), item.From)
		}
	}
	switch {
	case final.Answer == Present:
		j := Judgement{Verdict: IsCompleted, Why: item.To.String() + " is there, which only a complete copy is", Ran: sight.State}
		if temp.Answer == Present {
			j.Left = append(j.Left, deletion(e, r.Host, item.Temp(), temp, "what the copy did not need"))
		}
		if r.Kind == MigrateVolume {
			stale := sight.is(Stopped) && sight.uses(item.From)
			if stale {
				j.Left = append(j.Left, Action{Deed: Define, Host: r.Host, Why: "its definition still names " + item.From.String()})
			}
			doubt := sight.is(Stopped) && !sight.uses(item.To) && sight.mayUse(item.From)
			j.Left = append(j.Left, sourceDeletion(e, r.Host, item, from, final, stale || doubt)...)
		}
		return j
	case final.Answer == CouldNotLook:
		return undetermined("%s: %s", item.To, final.Why)
	case temp.Answer == CouldNotLook:
		return undetermined("%s: %s", item.Temp(), temp.Why)
	case temp.Answer == Present && len(temp.Users) > 0:
		return undetermined("%s is in use by %s: its writer is not gone yet", item.Temp(), strings.Join(temp.Users, ", "))
	case r.Kind == MigrateVolume && from.Answer == CouldNotLook:
		return undetermined("%s: %s", item.From, from.Why)
	case r.Kind == MigrateVolume && from.Answer == Absent:
		return undetermined("neither %s nor %s is there", item.From, item.To)
	}
	return failedCopy(r, e, item, item.To.String()+" is not there: the copy was not finished", sight.State, final, temp)
}

func failedCopy(r Record, e Evidence, item Item, why, ran string, final, temp FileSight) Judgement {
	j := Judgement{Verdict: IsFailed, Why: why, Ran: ran}
	if final.Answer != Absent {
		j.Left = append(j.Left, deletion(e, r.Host, item.To, final, "the volume stays at "+item.From.String()))
	}
	if item.Temporary != "" && temp.Answer != Absent {
		j.Left = append(j.Left, deletion(e, r.Host, item.Temp(), temp, "an unfinished copy"))
	}
	return j
}

// judgeBlockCopy: the hypervisor mirrors a disk of a running instance and turns over to
// the copy at once. So the disk that the instance uses is the proof.
func judgeBlockCopy(r Record, e Evidence, item Item) Judgement {
	sight := e.instance(r.Host)
	if !e.Hosts[r.Host].Answered {
		// Also of a host proven over: whether it turned over in time only its own definition tells.
		return undetermined("host %s has not answered: which disk instance %s uses is known there only", r.Host, r.Spec.Instance)
	}
	job := e.Hosts[r.Host].Job
	from, to := e.file(item.From, r.Host), e.file(item.To, r.Host)
	switch {
	case sight.here() == CouldNotLook:
		return undetermined("instance %s: %s", r.Spec.Instance, sight.Why)
	case sight.Answer == Absent:
		return undetermined("instance %s is not known on %s any more: which of its disks is the newer cannot be told", r.Spec.Instance, r.Host)
	case sight.uses(item.From) == sight.uses(item.To):
		return undetermined("instance %s uses %s: neither the one disk nor the other", r.Spec.Instance, sight.disks())
	case sight.uses(item.To):
		j := Judgement{Verdict: IsCompleted, Why: "instance " + r.Spec.Instance + " uses " + item.To.String(), Ran: sight.State}
		j.Left = sourceDeletion(e, r.Host, item, from, to, false)
		return j
	case job.Answer == Present && job.To == item.To:
		return Judgement{Verdict: InProgress, Reattach: true, Ran: sight.State, Why: fmt.Sprintf("its block job works: %d of %d bytes", job.Done, job.Total)}
	case job.Answer == Present:
		return undetermined("the disk has a block job that writes to %s, not to %s", job.To, item.To)
	case job.Answer != Absent:
		return undetermined("block job of %s: %s", item.From, job.Why)
	}
	j := Judgement{Verdict: IsFailed, Why: "instance " + r.Spec.Instance + " uses " + item.From.String() + " and has no block job", Ran: sight.State}
	if to.Answer != Absent {
		j.Left = append(j.Left, deletion(e, r.Host, item.To, to, "the volume stays at "+item.From.String()))
	}
	return j
}

// deletion is a leftover nobody needs: it may go once nobody uses it, for certain.
func deletion(e Evidence, host string, file Ref, s FileSight, why string) Action {
	if !e.Hosts[host].Answered { // somebody else who sees it does it
		for _, h := range sorted(e.Hosts) {
			if e.Hosts[h].Answered && e.Hosts[h].Files[file.String()].Answer == Present {
				host = h
				break
			}
		}
	}
	a := Action{Deed: Delete, Host: host, File: file, Why: why + "; nobody uses it"}
	a.Not = obstacle(file, s)
	return a
}

// obstacle says why a file may not be deleted now; empty: it may.
func obstacle(file Ref, s FileSight) string {
	switch {
	case s.Answer == CouldNotLook:
		return file.String() + ": " + s.Why
	case len(s.Users) > 0:
		return file.String() + " is in use by " + strings.Join(s.Users, ", ")
	case s.Unknown != "":
		return file.String() + ": who uses it is not known: " + s.Unknown
	}
	return ""
}

// sourceDeletion is what remains of a volume that has moved. Two proofs are needed: the
// other side is there, and nobody uses this one (pitfalls.md Q16).
func sourceDeletion(e Evidence, host string, item Item, from, to FileSight, stale bool) []Action {
	if from.Answer == Absent {
		return nil
	}
	a := deletion(e, host, item.From, from, "the volume is at "+item.To.String())
	switch {
	case a.Not != "":
	case to.Answer != Present:
		a.Not = fmt.Sprintf("%s was not seen: %s", item.To, to.Why)
	case stale:
		a.Not = "the instance's definition still names it, or may"
	}
	return []Action{a}
}

// disks are all that the instance uses, in words.
func (s InstanceSight) disks() string {
	switch {
	case len(s.Elsewhere) == 0:
		return refs(s.Disks)
	case len(s.Disks) == 0:
		return strings.Join(s.Elsewhere, ", ") + " outside of all pools"
	}
	return refs(s.Disks) + " and, outside of all pools, " + strings.Join(s.Elsewhere, ", ")
}

func refs(all []Ref) string {
	if len(all) == 0 {
		return "no disk"
	}
	out := make([]string, len(all))
	for i, r := range all {
		out[i] = r.String()
	}
	return strings.Join(out, ", ")
}
