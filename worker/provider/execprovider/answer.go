// SPDX-License-Identifier: Apache-2.0

package execprovider

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// Version of the contract.
const Version = 1

const (
	maxName      = 128 // bytes of a boot id, an instance's or a reader's name
	maxInstances = 10000
	maxVotes     = 1000
)

// question is what a program reads. docs/providers.md describes each field.
type question struct {
	Version    int               `json:"version"`
	Action     string            `json:"action"`
	Host       string            `json:"host"`
	Partition  string            `json:"partition"`
	Labels     map[string]string `json:"labels"`
	Deadline   time.Time         `json:"deadline"`
	Gate       string            `json:"gate,omitempty"`
	MustNotRun []string          `json:"mustNotRun,omitempty"`
	ID         string            `json:"id,omitempty"`
	Window     float64           `json:"windowSeconds,omitempty"`
	Neighbours []string          `json:"neighbours,omitempty"`
}

// answer is what a program writes. docs/providers.md describes each field.
type answer struct {
	Version   int      `json:"version"`
	Verdict   string   `json:"verdict"`
	Reason    string   `json:"reason"`
	Boot      string   `json:"boot"`
	Instances []string `json:"instances"`
	Gate      string   `json:"gate"`
	Signals   *signals `json:"signals"`
	Votes     []vote   `json:"votes"`
}

type signals struct {
	Agent          string `json:"agent"`
	Disks          string `json:"disks"`
	Network        string `json:"network"`
	OnlyManagement bool   `json:"onlyManagement"`
}

type vote struct {
	Reader  string `json:"reader"`
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
}

var names = []string{"version", "verdict", "reason", "boot", "instances", "gate", "signals", "agent", "disks", "network", "onlyManagement", "votes", "reader"}

// action is what a program is asked, and the two verdicts it may give besides unknown.
type action struct {
	name    string
	yes, no ha.Verdict
	fields  func(answer) error // what else an answer must or must not say
}

var (
	eligible = action{name: "eligible", yes: ha.Pass, no: ha.Fail, fields: func(a answer) error { return a.only(false, false) }}
	health   = action{name: "health", yes: ha.Pass, no: ha.Fail, fields: checkHealth}
	activity = action{name: "activity", yes: ha.Active, no: ha.Idle, fields: checkActivity}
)

// parse reads what a program said by the letter of the contract.
func (a action) parse(res proc.Result) (answer, ha.Verdict, error) {
	if res.Exit != 0 {
		return answer{}, ha.Unknown, fmt.Errorf("exit code %d; it said %s", res.Exit, res.LastWords())
	}
	var got answer
	if err := proc.DecodeObject(res.Stdout, names, &got); err != nil {
		return answer{}, ha.Unknown, err
	}
	if got.Version != Version {
		return answer{}, ha.Unknown, fmt.Errorf("version %d, allowed is %d", got.Version, Version)
	}
	verdict := ha.Verdict(got.Verdict)
	switch {
	case got.Verdict == "unknown":
		verdict = ha.Unknown
	case verdict != a.yes && verdict != a.no:
		return answer{}, ha.Unknown, fmt.Errorf("verdict %.40q, allowed are %s, %s and unknown", got.Verdict, a.yes, a.no)
	}
	if verdict != a.yes && strings.TrimSpace(got.Reason) == "" {
		return answer{}, ha.Unknown, fmt.Errorf("verdict %s without a reason", got.Verdict)
	}
	if err := a.fields(got); err != nil {
		return answer{}, ha.Unknown, err
	}
	got.Reason = power.Detail(cmp.Or(strings.TrimSpace(got.Reason), "its program says "+got.Verdict), power.Credential{})
	return got, verdict, nil
}

// only refuses what belongs to another action's answer.
func (a answer) only(ofHealth, ofActivity bool) error {
	switch {
	case !ofHealth && (a.Boot != "" || len(a.Instances) > 0 || a.Gate != ""):
		return errors.New("boot, instances and gate belong to health")
	case !ofActivity && (a.Signals != nil || len(a.Votes) > 0):
		return errors.New("signals and votes belong to activity")
	}
	return nil
}

// checkHealth: a pass names the run of the resource, for life and death are those of a
// boot (ha.md §1).
func checkHealth(a answer) error {
	if err := a.only(true, false); err != nil {
		return err
	}
	if len(a.Instances) > maxInstances {
		return fmt.Errorf("%d instances, allowed are %d", len(a.Instances), maxInstances)
	}
	switch passed := a.Verdict == string(ha.Pass); {
	case passed && a.Boot == "":
		return errors.New("a pass without boot")
	case !passed && (a.Boot != "" || len(a.Instances) > 0 || a.Gate != ""):
		return errors.New("boot, instances and gate without a pass")
	}
	for _, name := range append(slices.Clone(a.Instances), a.Boot, a.Gate) {
		if err := checkName(name); err != nil {
			return err
		}
	}
	if slices.Contains(a.Instances, "") {
		return errors.New("an instance without a name")
	}
	return nil
}

func checkName(name string) error {
	if len(name) > maxName || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("name %.40q: allowed are up to %d bytes without control characters", name, maxName)
	}
	return nil
}

// checkActivity: any sign of life beside idle makes it none (ha.md §5).
func checkActivity(a answer) error {
	if err := a.only(false, true); err != nil {
		return err
	}
	if s := a.Signals; s != nil {
		for _, f := range []struct{ name, is string }{{"agent", s.Agent}, {"disks", s.Disks}, {"network", s.Network}} {
			switch {
			case !slices.Contains([]string{"", "alive", "dead", "unknown"}, f.is):
				return fmt.Errorf("signals.%s %.40q, allowed are alive, dead and unknown", f.name, f.is)
			case f.is == "alive" && a.Verdict == string(ha.Idle):
				return fmt.Errorf("idle, and signals.%s is alive", f.name)
			}
		}
	}
	if len(a.Votes) > maxVotes {
		return fmt.Errorf("%d votes, allowed are %d", len(a.Votes), maxVotes)
	}
	for _, v := range a.Votes {
		switch {
		case v.Reader == "":
			return errors.New("a vote without a reader")
		case !slices.Contains([]string{string(ha.Active), string(ha.Idle), "unknown"}, v.Verdict):
			return fmt.Errorf("vote %.40q of %.40q, allowed are active, idle and unknown", v.Verdict, v.Reader)
		case v.Verdict == string(ha.Active) && a.Verdict == string(ha.Idle):
			return fmt.Errorf("idle, and %.40q voted active", v.Reader)
		}
		if err := checkName(v.Reader); err != nil {
			return err
		}
	}
	return nil
}

func (a answer) families() guard.SignalFacts {
	if a.Signals == nil {
		return guard.SignalFacts{}
	}
	family := func(s string) guard.Family {
		if s == "unknown" {
			return guard.FamilyUnknown
		}
		return guard.Family(s)
	}
	s := a.Signals
	return guard.SignalFacts{Agent: family(s.Agent), Disks: family(s.Disks), Network: family(s.Network), OnlyManagement: s.OnlyManagement}
}

func (a answer) ballot() (out []ha.Vote) {
	for _, v := range a.Votes {
		x := ha.Vote{Reader: v.Reader, Verdict: ha.Verdict(v.Verdict), Reason: power.Detail(v.Reason, power.Credential{})}
		if v.Verdict == "unknown" {
			x.Verdict = ha.Unknown
		}
		out = append(out, x)
	}
	return out
}
