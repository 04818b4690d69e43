// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Guard is one row of the table.
type Guard struct {
	Name     string
	Protects string // from what, for people
	ask      func(*Snapshot) Answer
}

// Guards is the table of ha.md §6, in the order in which answers are shown.
var Guards = []Guard{
	{"claim", "from acting on a host that another worker owns", claim},
	{"state", "from acting on a verdict that is old or overtaken", state},
	{"armed", "from acting where people said not to", armed},
	{"self", "from taking our own blindness for the hosts' death", self},
	{"signals", "from believing a single family of signals", signals},
	{"storage", "from taking a broken pool for dead hosts", storage},
	{"share", "from switching off a large part of a cluster, pod or zone", share},
	{"common cause", "from taking a broken rack, switch or PDU for dead hosts", commonCause},
	{"cooldown", "from acting on what a storm has left behind", cooldown},
	{"budget", "from switching off one host after the other", budget},
	{"quiet", "from acting on a host that boots or was just acted on", quiet},
	{"power", "from acting through a device that cannot do it or does not tell the truth", power},
	{"duplicate", "from two actions on one host at a time", duplicate},
}

// The share of its agents that makes a worker doubt itself (ha.md §6).
const (
	blindShare  = 20 // per cent
	blindAgents = 3
)

func claim(s *Snapshot) Answer {
	c := s.Claim
	const clears = "a renewed lease of this worker, or the next owner"
	switch {
	case c.Epoch == "":
		return hold("this worker holds no claim on the host", "another owner takes the host over")
	case c.NeededFor <= 0:
		return hold("how long one packet may take is not known", "a valid setting power.packet.timeout")
	case c.ValidFor < c.NeededFor:
		return hold(fmt.Sprintf("the claim is certain for another %s only, one packet may take %s", span(max(0, c.ValidFor)), span(c.NeededFor)), clears).
			compared(span(max(0, c.ValidFor)), span(c.NeededFor))
	}
	left := span(c.ValidFor)
	return said("the host is ours (epoch "+c.Epoch+") for at least "+left).compared(left, span(c.NeededFor))
}

func state(s *Snapshot) Answer {
	f := s.State
	const again = "a fresh activity check"
	switch {
	case f.RevisionAsked == 0 || f.RevisionPresent == 0:
		return hold("the host's revision is not known", "a read of the host's record")
	case f.RevisionAsked != f.RevisionPresent:
		return hold("the host's record was changed since it was checked", again).
			compared(fmt.Sprint("revision ", f.RevisionPresent), fmt.Sprint("revision ", f.RevisionAsked))
	case s.Purpose == Confirm: // what it rests on is two OFF readings, which guard power looks at
		return said("the host's record is as it was when the power was found OFF")
	case f.VerdictAsked.IsZero():
		return hold("no activity check said idle", again)
	case f.VerdictMaxAge <= 0:
		return hold("how old a verdict may be is not known", "valid settings ha.activity.window and ha.activity.timeout")
	case f.LastSignOfLife.After(f.VerdictAsked):
		return hold(fmt.Sprintf("the host gave a sign of life %s ago, after the check was asked for", span(s.At.Sub(f.LastSignOfLife))), again)
	}
	age := s.At.Sub(f.VerdictAsked)
	if age > f.VerdictMaxAge || age < 0 {
		return hold(fmt.Sprintf("the verdict was asked for %s ago; no more than %s may pass", span(age), span(f.VerdictMaxAge)), again).
			compared(span(age), span(f.VerdictMaxAge))
	}
	old := span(age)
	return said("the verdict is "+old+" old and nothing changed since").compared(old, span(f.VerdictMaxAge))
}

func armed(s *Snapshot) Answer {
	f := s.Armed
	switch {
	case f.Maintenance:
		return human("the host is in maintenance", "holdfast host maintenance off "+s.Host)
	case len(f.Disabled) > 0:
		return human("HA is disabled: "+strings.Join(f.Disabled, ", "), "holdfast ha enable")
	case len(f.Disarmed) > 0:
		return human("HA is disarmed: "+strings.Join(f.Disarmed, ", "), "holdfast ha arm, or the end of the disarming")
	case f.Partition != "ACTIVE":
		return hold("the partition is "+word(f.Partition)+", not ACTIVE", "a partition that is enabled and has enough eligible hosts")
	case f.Policy == "observe":
		return human("the policy is observe: everything is decided, nothing is sent", "setting ha.policy recover or fence")
	case f.Policy != "recover" && f.Policy != "fence":
		return hold("the policy is "+word(f.Policy), "setting ha.policy observe, recover or fence")
	}
	return said("HA is armed, the policy is " + f.Policy)
}

func self(s *Snapshot) Answer {
	f := s.Self
	switch {
	case f.Frozen != "":
		return human(f.Frozen, "`holdfast etcd raise-generation`, see docs/etcd-restore.md")
	case f.ReadAgeLimit <= 0 || f.ReadAge < 0:
		return hold("this worker has not read etcd yet", "a linearizable read")
	case f.ReadAge > f.ReadAgeLimit:
		return hold(fmt.Sprintf("I am blind: etcd was last read %s ago", span(f.ReadAge)), "a linearizable read").
			compared(span(f.ReadAge), span(f.ReadAgeLimit))
	case f.WarmupRoundsLeft > 0:
		return hold("this worker has just started and is warming up", fmt.Sprintf("%s of pings", count(f.WarmupRoundsLeft, "more round"))).
			compared(fmt.Sprint(f.WarmupRoundsLeft), "0")
	case f.AgentsLost >= blindAgents && f.AgentsLost*100 >= f.Agents*blindShare:
		return hold(fmt.Sprintf("I may be blind: %d of my %d agents were lost at once", f.AgentsLost, f.Agents), "agents that come back, or the end of the window they are counted in").
			compared(fmt.Sprint(f.AgentsLost), fmt.Sprintf("%d and %d%%", blindAgents, blindShare))
	}
	return said("this worker sees: " + strconv.Itoa(f.AgentsLost) + " of " + strconv.Itoa(f.Agents) + " agents lost, etcd read " + span(f.ReadAge) + " ago")
}

func signals(s *Snapshot) Answer {
	f := s.Signals
	alive, dead := make([]string, 0, 3), make([]string, 0, 3)
	for _, x := range []struct {
		name string
		is   Family
	}{{"agent", f.Agent}, {"disks", f.Disks}, {"network", f.Network}} {
		switch x.is {
		case FamilyAlive:
			alive = append(alive, x.name)
		case FamilyDead:
			dead = append(dead, x.name)
		}
	}
	const clears = "an activity check that finds the agent dead (link and stamp), and the disks or the network"
	switch {
	case len(alive) > 0 && s.Purpose == Confirm:
		return hold("signs of life: "+strings.Join(alive, " and "), "a check that finds none, or a device that reads ON")
	case s.Purpose == Confirm: // OFF was read twice and nothing lived since: §3.1 asks no more
		return said("no sign of life since the power was found OFF")
	case f.Agent != FamilyDead:
		return hold("the agent's link and stamp are not both silent: agent "+seen(f.Agent), clears)
	case f.Disks != FamilyDead && f.Network != FamilyDead:
		return hold(fmt.Sprintf("only the agent is silent: disks %s, network %s", seen(f.Disks), seen(f.Network)), clears)
	case f.OnlyManagement:
		return hold("only the management network says so: it may be the network that is broken", "a probe over another network, or instance disks that stopped")
	}
	return said("dead: " + strings.Join(dead, " and "))
}

func budget(s *Snapshot) Answer {
	if s.Purpose == Confirm {
		return said("confirming a host that was found OFF spends none")
	}
	if len(s.Budgets) == 0 {
		return hold("no budget is known", "a read of the budgets")
	}
	const clears = "an operator who resets the budget or grants more (holdfast ha budget)"
	var held []Answer
	left := make([]byte, 0, 128)
	left = append(left, "a slot is free: "...)
	for i, b := range s.Budgets {
		if i > 0 {
			left = append(left, ", "...)
		}
		switch {
		case b.Spent:
			left = append(append(left, b.Scope...), " spent already by this incident"...)
		case !b.Known || b.Window <= 0:
			held = append(held, hold("budget "+b.Scope+" is not known", "a read of the budgets"))
		case b.Latched:
			held = append(held, human(fmt.Sprintf("budget %s is latched: an incident asked and found none (%s)", b.Scope, b.used()), clears).compared(fmt.Sprint(b.Used), fmt.Sprint(b.Limit)))
		case b.Used >= b.Limit:
			why := fmt.Sprintf("budget %s is used up: %s", b.Scope, b.used())
			if b.NextIn > 0 {
				why += "; next slot in " + span(b.NextIn)
			}
			held = append(held, hold(why, clears).compared(fmt.Sprint(b.Used), fmt.Sprint(b.Limit)))
		default:
			left = append(appendOf(append(append(left, b.Scope...), ' '), b.Used, b.Limit), " used"...)
		}
	}
	if len(held) == 0 {
		return said(string(left))
	}
	return all(held)
}

func (b BudgetFacts) used() string {
	return fmt.Sprintf("%d of %d in the last %s", b.Used, b.Limit, last(b.Window))
}

func quiet(s *Snapshot) Answer {
	f := s.Quiet
	if s.Purpose == Confirm {
		return said("confirming a host that was found OFF does not wait for quiet")
	}
	gap := s.At.Sub(f.LastOtherAction)
	switch {
	case !f.Known:
		return hold("when the host was last acted on is not known", "a read of the host's record")
	case f.Until.After(s.At):
		left := span(f.Until.Sub(s.At))
		return hold("the host is in its quiet period for another "+left, "the end of it in "+left+", or a passed health check").compared(left, "0s")
	case !f.LastOtherAction.IsZero() && f.MinGap <= 0:
		return hold("how far apart power actions must be is not known", "a known gap")
	case !f.LastOtherAction.IsZero() && gap < f.MinGap:
		return hold(fmt.Sprintf("the host's power was acted on %s ago, outside this incident", span(max(0, gap))), "the end of the gap in "+span(f.MinGap-gap)).
			compared(span(max(0, gap)), span(f.MinGap))
	case f.LastOtherAction.IsZero():
		return said("no power action of anybody else is known")
	}
	ago := span(gap)
	return said("the last power action of anybody else was "+ago+" ago").compared(ago, span(f.MinGap))
}

func power(s *Snapshot) Answer {
	want := "ON"
	if s.Purpose == Confirm {
		want = "OFF"
	}
	if len(s.Power.Levels) == 0 {
		return human("no power level is configured", "a power device in the host's spec")
	}
	var why []string
	humans := 0
	for _, lv := range s.Power.Levels {
		text, human := lv.unfit(s.Purpose, want)
		if text == "" {
			return said("level "+strconv.Itoa(lv.Level)+" reads "+want+", "+span(lv.ReadAge)+" ago, and is tested").compared(lv.State, want)
		}
		why = append(why, fmt.Sprintf("level %d %s", lv.Level, text))
		if human {
			humans++
		}
	}
	reason := strings.Join(why, "; ")
	if humans == len(s.Power.Levels) {
		return human(reason, "another power device, or holdfast host confirm-off "+s.Host)
	}
	return hold(reason, fmt.Sprintf("some power level that is tested and reads %s, or holdfast host confirm-off %s", want, s.Host))
}

// unfit says why a level does not count, and whether only a human can change that.
func (lv LevelFacts) unfit(p Purpose, want string) (why string, human bool) {
	switch {
	case lv.Contradicted:
		return "is contradicted: it read OFF while the host lived", true
	case p == Recover && !lv.CanSwitchOn:
		return "cannot switch the host on again", true
	case lv.State != "ON" && lv.State != "OFF":
		return "is unreadable" + because(lv.Reason), false
	case lv.MaxAge <= 0:
		return "has no limit for the age of a reading", false
	case lv.ReadAge < 0 || lv.ReadAge > lv.MaxAge:
		return fmt.Sprintf("was last read %s ago, more than %s", span(lv.ReadAge), span(lv.MaxAge)), false
	case lv.State != want:
		return "reads " + lv.State + ", not " + want, false
	case !lv.Tested:
		return "has no good power test" + because(lv.Reason), false
	}
	return "", false
}

func duplicate(s *Snapshot) Answer {
	if s.Running != "" {
		return hold("an action for this host is running already: "+s.Running, "its end")
	}
	return said("no action for this host is running")
}

// said allows, in these words. What allows is said most often, and so without fmt.
func said(reason string) Answer { return Answer{Verdict: Allow, Reason: reason} }

func hold(reason, clears string) Answer {
	return Answer{Verdict: Hold, Reason: reason, Clears: clears}
}

func human(reason, clears string) Answer {
	return Answer{Verdict: NeedHuman, Reason: reason, Clears: clears}
}

func (a Answer) compared(value, limit string) Answer {
	a.Value, a.Limit = value, limit
	return a
}

func seen(f Family) string {
	if !slices.Contains([]Family{FamilyAlive, FamilyDead}, f) {
		return "not known"
	}
	return string(f)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

func word(s string) string {
	if s == "" {
		return "not known"
	}
	return s
}

func quote(s string) string { return fmt.Sprintf("%q", s) }

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// appendOf appends "n of all".
func appendOf(b []byte, n, all int) []byte {
	return strconv.AppendInt(append(strconv.AppendInt(b, int64(n), 10), " of "...), int64(all), 10)
}

// last writes a window as in "in the last hour".
func last(d time.Duration) string {
	switch d {
	case time.Hour:
		return "hour"
	case 24 * time.Hour:
		return "day"
	}
	return span(d)
}

// span writes a duration without its empty tail: 12m, not 12m0s.
func span(d time.Duration) string {
	switch {
	case d >= time.Minute || d <= -time.Minute:
		d = d.Round(time.Second)
	default:
		d = d.Round(100 * time.Millisecond)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
