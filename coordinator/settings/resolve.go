// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Layer is what is set explicitly at one scope.
type Layer struct {
	Scope  string            // global, zone/…, pod/…, cluster/…, host/…
	Values map[string]string // by name; "preset" among them
}

// Effective is what is in effect for one host or partition. The zero value is the
// defaults. It is read-only and safe for concurrent use.
type Effective struct {
	values   map[string]value
	problems []string
}

type value struct{ text, origin string }

// OriginDefault is the origin of a value that nobody set.
const OriginDefault = "default"

// crossRule says how small one duration may be, given others.
type crossRule struct {
	name  string
	words string
	least func(Effective) time.Duration
}

// In this order: a later rule sees what an earlier one raised.
var crossRules = []crossRule{
	{"ha.activity.window", "at least 2 × ha.stamp.interval + 1s", func(e Effective) time.Duration { return 2*e.Duration("ha.stamp.interval") + time.Second }},
	{"ha.activity.timeout", "at least ha.activity.window + 2s", func(e Effective) time.Duration { return e.Duration("ha.activity.window") + 2*time.Second }},
	{"ha.activity.interval.max", "at least ha.activity.interval.initial", func(e Effective) time.Duration { return e.Duration("ha.activity.interval.initial") }},
	{"ha.fence.timeout", "at least ha.fence.level.timeout", func(e Effective) time.Duration { return e.Duration("ha.fence.level.timeout") }},
	{"power.test.maxage", "at least power.test.interval", func(e Effective) time.Duration { return e.Duration("power.test.interval") }},
}

// Resolve lays the scopes over each other, the widest first, and returns what is in
// effect. A value that is not allowed is left out, a pair that breaks a cross rule is
// widened to keep it; both are listed in Problems.
func Resolve(layers []Layer) Effective {
	e := Effective{values: map[string]value{}}
	for _, l := range layers {
		if v, ok := l.Values[Preset]; ok {
			if preset, ok := e.set(l.Scope, Preset, v); ok {
				for _, d := range All {
					if d.column() {
						e.values[d.Name] = value{d.figure(preset), fmt.Sprintf("preset %s at %s", preset, l.Scope)}
					}
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(l.Values)) {
			if name != Preset {
				e.set(l.Scope, name, l.Values[name])
			}
		}
	}
	for _, r := range crossRules {
		least, has := r.least(e), e.Duration(r.name)
		if has >= least {
			continue
		}
		text, origin := e.Value(r.name)
		e.problems = append(e.problems, fmt.Sprintf("setting %s: value %q (%s): allowed is %s, here %s", r.name, text, origin, r.words, short(least)))
		e.values[r.name] = value{short(least), origin + ", raised: " + r.words}
	}
	return e
}

// set takes one explicit value over, or says why not.
func (e *Effective) set(scope, name, text string) (string, bool) {
	d, ok := Lookup(name)
	if !ok {
		e.problems = append(e.problems, fmt.Sprintf("setting %q at %s: there is no such setting", name, scope))
		return "", false
	}
	if !d.AllowedAt(scope) {
		e.problems = append(e.problems, fmt.Sprintf("setting %s at %s: allowed scopes are %s", name, scope, strings.Join(d.Scopes, ", ")))
		return "", false
	}
	canon, err := d.Parse(text)
	if err != nil {
		e.problems = append(e.problems, fmt.Sprintf("%v (at %s)", err, scope))
		return "", false
	}
	e.values[name] = value{canon, scope}
	return canon, true
}

// Validate checks one value that is about to be set at a scope: name, scope, value, and
// the rules it must keep together with what else is set in layers, which contain the new
// value already. Problems that were there before it are not held against it.
func Validate(scope, name, text string, layers []Layer) error {
	d, ok := Lookup(name)
	if !ok {
		return fmt.Errorf("setting %q: there is no such setting", name)
	}
	if !d.AllowedAt(scope) {
		return fmt.Errorf("setting %s: scope %q: allowed are %s", name, scope, strings.Join(d.Scopes, ", "))
	}
	if _, err := d.Parse(text); err != nil {
		return err
	}
	before := make([]Layer, len(layers))
	for i, l := range layers {
		before[i] = l
		if l.Scope == scope {
			before[i].Values = maps.Clone(l.Values)
			delete(before[i].Values, name)
		}
	}
	old := Resolve(before).problems
	for _, p := range Resolve(layers).problems {
		if !slices.Contains(old, p) {
			return errors.New(p)
		}
	}
	return nil
}

// WithFigure returns e with a figure in place of a value that nobody set explicitly: a
// default, or that of a preset. A figure that is not allowed is left out.
func (e Effective) WithFigure(name, text, origin string) Effective {
	d, ok := Lookup(name)
	if !ok {
		return e
	}
	canon, err := d.Parse(text)
	if _, from := e.Value(name); err != nil || from != OriginDefault && !strings.HasPrefix(from, "preset ") {
		return e
	}
	e.values = maps.Clone(e.values)
	if e.values == nil {
		e.values = map[string]value{}
	}
	e.values[name] = value{canon, origin}
	return e
}

// Problems lists, for people, what was left out or widened.
func (e Effective) Problems() []string { return slices.Clone(e.problems) }

// Value returns a setting's text and where it comes from: a scope, "preset fast at
// zone/z1", or "default". An unknown name gives two empty strings.
func (e Effective) Value(name string) (text, origin string) {
	if v, ok := e.values[name]; ok {
		return v.text, v.origin
	}
	if d, ok := Lookup(name); ok {
		return d.Default, OriginDefault
	}
	return "", ""
}

// String returns a setting of type enum, string or path; the text of any other.
func (e Effective) String(name string) string {
	text, _ := e.Value(name)
	return text
}

// Duration returns a setting of type duration; 0 for any other.
func (e Effective) Duration(name string) time.Duration {
	d, err := time.ParseDuration(e.String(name))
	if err != nil {
		return 0
	}
	return d
}

// Int returns a setting of type int or percent; 0 for any other.
func (e Effective) Int(name string) int {
	n, err := strconv.Atoi(strings.TrimSuffix(e.String(name), "%"))
	if err != nil {
		return 0
	}
	return n
}

// Bool returns a setting of type bool; false for any other.
func (e Effective) Bool(name string) bool { return e.String(name) == "true" }

// Rate returns a setting of type rate: so many per window; zeros for any other.
func (e Effective) Rate(name string) (int, time.Duration) {
	n, window, ok := parseRate(e.String(name))
	if !ok {
		return 0, 0
	}
	return n, window
}

// Assurance returns a setting of type assurance as its number, 3 to 5; 0 for any other.
func (e Effective) Assurance(name string) uint8 {
	n, err := strconv.ParseUint(strings.TrimPrefix(e.String(name), "A"), 10, 8)
	if err != nil {
		return 0
	}
	return uint8(n)
}

// ScopesOf are the scopes whose settings count for a host, or with host "" for a partition path: widest
// first, as the catalogue names them.
func ScopesOf(path, host string) []string {
	out := []string{"global"}
	names := [...]string{"zone/", "pod/", "cluster/"}
	for i, p := range Prefixes(path) {
		if i < len(names) {
			out = append(out, names[i]+p)
		}
	}
	if host != "" {
		out = append(out, "host/"+host)
	}
	return out
}

// Prefixes of a partition path, widest first: z, z/p, z/p/c of z/p/c; none of "".
func Prefixes(path string) []string {
	if path == "" {
		return nil
	}
	var out []string
	for i := range path {
		if path[i] == '/' {
			out = append(out, path[:i])
		}
	}
	return append(out, path)
}
