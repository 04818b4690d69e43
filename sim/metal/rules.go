// SPDX-License-Identifier: Apache-2.0

package metal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/pdu"
	"github.com/holdfast-ha/holdfast/sim/redfish"
)

// ErrBadRule is wrapped by errors about a rule or selection that makes no sense.
var ErrBadRule = errors.New("not a rule")

// Selection means some hosts of a fleet.
type Selection struct {
	// Hosts are numbers and ranges with commas between them, like 1-100,205; empty for all.
	Hosts string `json:"hosts,omitempty"`
	// Percent is the share of them that is meant, chosen by the fleet's seed; 0 for all.
	Percent float64 `json:"percent,omitempty"`
}

// Rule gives faults to some devices, in place of those they have. Of the fields below
// the selections, only those that are there are set. Durations in its JSON are texts like "30ms", or
// nanoseconds.
type Rule struct {
	Selection
	BMC     *bmc.Faults     `json:"bmc,omitempty"`
	Redfish *redfish.Faults `json:"redfish,omitempty"`

	PDUs string      `json:"pdus,omitempty"` // like Hosts, of PDUs
	PDU  *pdu.Faults `json:"pdu,omitempty"`
}

// durations are the fields of faults that may be written as text.
var durations = []string{"delay", "jitter", "self_on_after", "lockout_for", "trickle"}

// ParseRules reads a list of rules in JSON, or a single one.
func ParseRules(text []byte) ([]Rule, error) {
	text = bytes.TrimSpace(text)
	if len(text) > 0 && text[0] == '{' {
		text = slices.Concat([]byte("["), text, []byte("]"))
	}
	var loose []map[string]any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&loose); err != nil {
		return nil, fmt.Errorf("parse rules: %w: %v", ErrBadRule, err)
	}
	if dec.More() {
		return nil, fmt.Errorf("parse rules: %w: there is more behind the list", ErrBadRule)
	}
	for i, r := range loose {
		for _, part := range r {
			faults, _ := part.(map[string]any)
			for _, name := range durations {
				s, isText := faults[name].(string)
				if !isText {
					continue
				}
				d, err := time.ParseDuration(s)
				if err != nil {
					return nil, fmt.Errorf("parse rule %d: %w: %s is %q, allowed is a duration like 30ms", i+1, ErrBadRule, name, s)
				}
				faults[name] = d
			}
		}
	}
	strict, err := json.Marshal(loose)
	if err != nil {
		return nil, fmt.Errorf("parse rules: %w", err)
	}
	var rules []Rule
	dec = json.NewDecoder(bytes.NewReader(strict))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&rules); err != nil {
		return nil, fmt.Errorf("parse rules: %w: %v", ErrBadRule, err)
	}
	for i, r := range rules {
		if r.BMC == nil && r.Redfish == nil && r.PDU == nil {
			return nil, fmt.Errorf("parse rule %d: %w: it sets nothing, allowed are bmc, redfish and pdu", i+1, ErrBadRule)
		}
	}
	return rules, nil
}

// Preset is a list of rules with a name.
type Preset struct {
	Name, Text string
	Rules      []Rule
}

func all(f bmc.Faults) Rule { return Rule{BMC: &f} }

func share(percent float64, f bmc.Faults) Rule {
	return Rule{Selection: Selection{Percent: percent}, BMC: &f}
}

// usual is how most BMCs answer (power.md §4: 30 to 60 ms).
var usual = bmc.Faults{Delay: 30 * time.Millisecond, Jitter: 30 * time.Millisecond}

func usually(change func(*bmc.Faults)) bmc.Faults {
	f := usual
	change(&f)
	return f
}

// Presets lists the presets in the order of the docs.
func Presets() []Preset {
	return []Preset{
		{"healthy", "every BMC answers at once and tells the truth", nil},
		{"usual", "every answer takes 30 to 60 ms", []Rule{all(usual)}},
		{"dead", "as usual, and 1 % are mute", []Rule{all(usual), share(1, bmc.Faults{Mute: true})}},
		{"lossy", "as usual, 1 % are mute and 2 % of all answers are lost", []Rule{
			all(usually(func(f *bmc.Faults) { f.LoseAnswers = 2 })), share(1, bmc.Faults{Mute: true})}},
		{"slow", "every answer takes 1.5 s", []Rule{all(bmc.Faults{Delay: 1500 * time.Millisecond})}},
		{"hostile", "forged, cut, mispadded, random and repeated datagrams go before each true answer", []Rule{
			all(usually(func(f *bmc.Faults) {
				f.Forged, f.Short, f.BadPadding, f.Garbage, f.Replayed, f.DuplicateAnswers = 3, 2, 2, 2, 2, 50
			}))}},
		{"liars", "a tenth each ignores commands, says OFF, says OFF once, says OFF three times, says ON, is busy, comes on by itself 4 s after off, loses 20 % of its answers, is mute; a tenth is healthy", liars()},
	}
}

// liars are the behaviours of power.md §6.1.
func liars() (rules []Rule) {
	rules = append(rules, all(usual))
	for _, change := range []func(*bmc.Faults){
		func(f *bmc.Faults) { f.IgnoreCommands = true },
		func(f *bmc.Faults) { f.SayOff, f.IgnoreCommands = true, true },
		func(f *bmc.Faults) { f.OffReadings, f.IgnoreCommands = 1, true },
		func(f *bmc.Faults) { f.OffReadings, f.IgnoreCommands = 3, true },
		func(f *bmc.Faults) { f.SayOn = true },
		func(f *bmc.Faults) { f.Busy = 2 },
		func(f *bmc.Faults) { f.SelfOnAfter = 4 * time.Second },
		func(f *bmc.Faults) { f.LoseAnswers = 20 },
		func(f *bmc.Faults) { f.Mute = true },
	} {
		rules = append(rules, share(10, usually(change)))
	}
	return rules
}

// PresetRules finds a preset.
func PresetRules(name string) ([]Rule, bool) {
	for _, p := range Presets() {
		if p.Name == name {
			return p.Rules, true
		}
	}
	return nil, false
}

// Apply gives faults to devices. Shares of one call do not overlap while there are hosts
// enough. An error leaves the fleet as it was.
func (f *Fleet) Apply(rules []Rule) error {
	type change struct {
		hosts []*Host
		pdus  []*pdu.PDU
		rule  Rule
	}
	var changes []change
	taken := map[*Host]bool{}
	for i, r := range rules {
		chosen, err := f.share(r.Selection, taken, i)
		if err != nil {
			return fmt.Errorf("apply rule %d: %w", i+1, err)
		}
		c := change{hosts: chosen, rule: r}
		if r.PDU != nil {
			numbers, err := parseRanges("pdus", r.PDUs, len(f.pdus))
			if err != nil {
				return fmt.Errorf("apply rule %d: %w", i+1, err)
			}
			for _, n := range numbers {
				c.pdus = append(c.pdus, f.pdus[n-1])
			}
		}
		// The bounds of faults are the devices' own; one that is not in the fleet checks them.
		for _, err := range []error{check(r.BMC, bmc.New(bmc.Config{}).SetFaults), check(r.Redfish, redfish.New(redfish.Config{}).SetFaults), check(r.PDU, pdu.New(pdu.Config{}).SetFaults)} {
			if err != nil {
				return fmt.Errorf("apply rule %d: %w: %w", i+1, ErrBadRule, err)
			}
		}
		changes = append(changes, c)
	}
	var errs []error
	for _, c := range changes {
		for _, h := range c.hosts {
			errs = append(errs, check(c.rule.BMC, h.bmc.SetFaults))
			if h.redfish != nil {
				errs = append(errs, check(c.rule.Redfish, h.redfish.SetFaults))
			}
		}
		for _, p := range c.pdus {
			errs = append(errs, check(c.rule.PDU, p.SetFaults))
		}
	}
	return errors.Join(errs...)
}

func check[F any](f *F, set func(F) error) error {
	if f == nil {
		return nil
	}
	return set(*f)
}

// choose is share for a selection that stands alone.
func (f *Fleet) choose(s Selection) ([]*Host, error) { return f.share(s, map[*Host]bool{}, 0) }

// share finds the hosts that a selection means. A share leaves out those taken before;
// the n-th of a call has dice of its own.
func (f *Fleet) share(s Selection, taken map[*Host]bool, n int) ([]*Host, error) {
	numbers, err := parseRanges("hosts", s.Hosts, len(f.hosts))
	if err != nil {
		return nil, err
	}
	if s.Percent < 0 || s.Percent > 100 || math.IsNaN(s.Percent) {
		return nil, fmt.Errorf("%w: percent is %v, allowed is 0 to 100", ErrBadRule, s.Percent)
	}
	out := make([]*Host, 0, len(numbers))
	for _, k := range numbers {
		out = append(out, f.hosts[k-1])
	}
	if s.Percent == 0 {
		return out, nil
	}
	want := max(1, int(math.Round(float64(len(out))*s.Percent/100)))
	out = slices.DeleteFunc(out, func(h *Host) bool { return taken[h] })
	dice := rand.New(rand.NewPCG(f.cfg.Seed, 2+uint64(n)))
	dice.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	out = out[:min(want, len(out))]
	for _, h := range out {
		taken[h] = true
	}
	return out, nil
}

// parseRanges reads 1-100,205; empty means 1 to n.
func parseRanges(field, text string, n int) (out []int, err error) {
	if text == "" {
		text = fmt.Sprint("1-", n)
		if n == 0 {
			return nil, fmt.Errorf("%w: %s: there are none", ErrBadRule, field)
		}
	}
	seen := map[int]bool{}
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || first < 1 || last > n || first > last {
			return nil, fmt.Errorf("%w: %s: %q, allowed are numbers and ranges from 1 to %d, like 1-10,15", ErrBadRule, field, part, n)
		}
		for k := first; k <= last; k++ {
			if !seen[k] {
				seen[k] = true
				out = append(out, k)
			}
		}
	}
	return out, nil
}
