// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Type is how a value is written.
type Type string

const (
	Duration  Type = "duration"  // 500ms, 5s, 10m
	Int       Type = "int"       // 3
	Percent   Type = "percent"   // 34%
	Enum      Type = "enum"      // one of Def.Enum
	String    Type = "string"    // any text without control characters
	Path      Type = "path"      // absolute path of a program, or empty
	Bool      Type = "bool"      // true, false
	Rate      Type = "rate"      // 3/1h, 20/s
	Assurance Type = "assurance" // A3 to A5
)

// Effects of a change.
const (
	Live       = "live"        // at once, without restart
	NextAction = "next action" // for the next check, transaction or session; what runs keeps its value
)

// Scopes, from the widest to the narrowest. A setting's scope is one of them, all but
// global followed by a slash and a path.
var Scopes = []string{"global", "zone", "pod", "cluster", "host"}

// Def is one setting.
type Def struct {
	Name     string
	Type     Type
	Default  string
	Min, Max string            // bounds, both included; empty: none
	Enum     []string          // Type Enum
	Scopes   []string          // where it may be set
	Presets  map[string]string // figures of presets that differ from the default
	Effect   string            // Live or NextAction
	Doc      string            // one sentence
}

// maxText bounds a text value.
const maxText = 1024

// Lookup finds a setting by its name.
func Lookup(name string) (Def, bool) {
	d, ok := byName[name]
	return d, ok
}

// AllowedAt reports whether the setting may be set at a scope such as "global" or
// "cluster/z1/p1/c1".
func (d Def) AllowedAt(scope string) bool {
	kind, path, _ := strings.Cut(scope, "/")
	return slices.Contains(d.Scopes, kind) && (kind == "global") == (path == "")
}

// Allowed says in words which values the setting takes.
func (d Def) Allowed() string {
	switch d.Type {
	case Enum:
		return strings.Join(d.Enum, ", ")
	case Bool:
		return "true, false"
	case Assurance:
		return "A3, A4, A5"
	case Path:
		return "an absolute path of a program, or nothing"
	case String:
		return "text without control characters, or nothing"
	}
	noun := map[Type]string{Duration: "durations such as 500ms or 10m", Int: "whole numbers", Percent: "percentages", Rate: "rates such as 3/1h"}[d.Type]
	if d.Min == "" && d.Max == "" {
		return noun
	}
	return fmt.Sprintf("%s from %s to %s", noun, d.Min, d.Max)
}

// Parse checks a value and returns it as it is stored. Its error names the setting, the
// value and what is allowed.
func (d Def) Parse(value string) (string, error) {
	text := strings.TrimSpace(value)
	out, ok := d.normal(text)
	if ok && (d.Min != "" || d.Max != "") {
		ok = d.within(out)
	}
	if !ok {
		return "", fmt.Errorf("setting %s: value %q: allowed are %s", d.Name, value, d.Allowed())
	}
	return out, nil
}

// normal brings a value into its stored form, whatever its bounds.
func (d Def) normal(text string) (string, bool) {
	switch d.Type {
	case Duration:
		_, err := time.ParseDuration(text)
		return text, err == nil
	case Int:
		n, err := strconv.Atoi(text)
		return strconv.Itoa(n), err == nil
	case Percent:
		n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(text, "%")))
		return strconv.Itoa(n) + "%", err == nil
	case Rate:
		n, w, ok := parseRate(text)
		return fmt.Sprintf("%d/%s", n, short(w)), ok
	case Bool:
		switch strings.ToLower(text) {
		case "true", "on", "yes":
			return "true", true
		case "false", "off", "no":
			return "false", true
		}
		return "", false
	case Enum:
		text = strings.ToLower(text)
		return text, slices.Contains(d.Enum, text)
	case Assurance:
		text = strings.ToUpper(text)
		return text, slices.Contains([]string{"A3", "A4", "A5"}, text)
	}
	clean := len(text) <= maxText && strings.IndexFunc(text, unicode.IsControl) < 0
	return text, clean && (d.Type == String || text == "" || strings.HasPrefix(text, "/"))
}

// within compares a value in its stored form with the bounds.
func (d Def) within(text string) bool {
	if d.Type == Rate {
		n, w, _ := parseRate(text)
		lowN, lowW, _ := parseRate(d.Min)
		highN, highW, _ := parseRate(d.Max)
		return n >= lowN && n <= highN && w >= lowW && w <= highW
	}
	v := d.number(text)
	return v >= d.number(d.Min) && v <= d.number(d.Max)
}

// number is a duration in nanoseconds, an int or a percentage.
func (d Def) number(text string) int64 {
	if d.Type == Duration {
		v, _ := time.ParseDuration(text) // stored values and bounds were parsed before
		return int64(v)
	}
	n, _ := strconv.ParseInt(strings.TrimSuffix(text, "%"), 10, 64)
	return n
}

// parseRate reads 3/1h, 20/s or 20/1s.
func parseRate(text string) (int, time.Duration, bool) {
	count, per, ok := strings.Cut(text, "/")
	n, err := strconv.Atoi(strings.TrimSpace(count))
	if !ok || err != nil || n < 0 {
		return 0, 0, false
	}
	per = strings.TrimSpace(per)
	if per != "" && unicode.IsLetter(rune(per[0])) {
		per = "1" + per
	}
	w, err := time.ParseDuration(per)
	return n, w, err == nil && w > 0
}

// short writes a duration without its empty tail: 1h, not 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
