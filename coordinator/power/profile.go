// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ProfileLayer is what is said at one scope of how power devices are reached: field by
// field, what is not said is inherited (power.md §9.6).
type ProfileLayer struct {
	Scope  string // global, zone/…, pod/…, cluster/…, host/…
	Fields map[string]string
}

// ProfileValue is one field as it is effective, and the scope that said so.
type ProfileValue struct{ Value, Origin string }

// Profile is what is effective for one host. The zero value says nothing. It is
// read-only and safe for concurrent use.
type Profile struct{ fields map[string]ProfileValue }

// ProfileField describes one kind of field.
type ProfileField struct {
	Pattern, Allowed, Doc string

	re    *regexp.Regexp
	check func(value string) bool
}

// Classes of devices, and quirks, with the settings that they change where nobody has set
// them explicitly (power.md §6.3).
var (
	Classes = map[string]map[string]string{
		"normal":  {},
		"slow":    {"power.status.deadline": "15s", "power.command.deadline": "30s"},
		"fragile": {"power.session.gap": "5s", "power.sync.interval": "120s"},
	}
	Quirks = map[string]map[string]string{
		"late-answers": {"power.packet.timeout": "5s", "power.status.deadline": "15s", "power.command.deadline": "30s"},
		"state-lag":    {"power.settle.window": "30s"},
		"no-reset":     {},
	}
)

const (
	idText   = `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`
	idNoDots = `[A-Za-z0-9][A-Za-z0-9_-]{0,62}`
	maxField = 512
)

// ProfileFields are all fields there are, in the order in which they are shown. <name> is
// a device's name without dots, <n> a level.
var ProfileFields = []ProfileField{
	{"class", words(Classes), "How the devices behave: slow ones get more time, fragile ones fewer sessions.", regexp.MustCompile(`^class$`), member(Classes)},
	{"quirks", words(Quirks) + ", several with commas, or none", "What is odd about them.", regexp.MustCompile(`^quirks$`), func(v string) bool {
		return v == "none" || !slices.ContainsFunc(strings.Split(v, ","), func(q string) bool { return !member(Quirks)(q) })
	}},
	{"device.<name>.driver", "a kind of driver", "Which driver talks to the device. A scope that names another driver starts without parameters.", field(`driver`), plain},
	{"device.<name>.address", "text; {host} stands for the host's id", "Where the device is.", field(`address`), plain},
	{"device.<name>.user", "a name, or a reference env:NAME or file:PATH; {host} stands for the host's id", "Account on the device.", field(`user`), plain},
	{"device.<name>.secret", "a reference, never the secret itself; {host} stands for the host's id", "Where its password is.", field(`secret`), plain},
	{"device.<name>.level", "1 to 9", "The level it belongs to: 1 is tried first. By default 1, PDUs 2, manual 4.", field(`level`), func(v string) bool { return len(v) == 1 && v >= "1" && v <= "9" }},
	{"device.<name>.assurance", "A0 to A5", "What a settled OFF read through it proves at most. By default what its driver says.", field(`assurance`), func(v string) bool { return new(Assurance).UnmarshalText([]byte(v)) == nil }},
	{"device.<name>.param.<parameter>", "as the driver says", "A parameter of the driver.", field(`param\.` + idText), plain},
	{"level.<n>.mode", "all, any", "Whether all devices of the level must be off, or any: several paths to one BMC.", regexp.MustCompile(`^level\.[1-9]\.mode$`), func(v string) bool { return v == "all" || v == "any" }},
	{"level.<n>.deadline", "durations from 51s to 30m", "How long the level may take.", regexp.MustCompile(`^level\.[1-9]\.deadline$`), func(v string) bool {
		d, err := time.ParseDuration(v)
		return err == nil && d >= 51*time.Second && d <= 30*time.Minute
	}},
	{"level.<n>.assurance", "A2 to A5", "A weaker OFF of this level is no proof. Never below the setting ha.proof.min.", regexp.MustCompile(`^level\.[1-9]\.assurance$`), func(v string) bool {
		var a Assurance
		return a.UnmarshalText([]byte(v)) == nil && a >= A2
	}},
}

func field(rest string) *regexp.Regexp {
	return regexp.MustCompile(`^device\.` + idNoDots + `\.` + rest + `$`)
}

func words[T any](m map[string]T) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }

func member[T any](m map[string]T) func(string) bool {
	return func(v string) bool { _, ok := m[v]; return ok }
}

func plain(v string) bool {
	return v != "" && len(v) <= maxField && !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// CheckProfileField checks a field's name and value; the error names the field, the value
// and what is allowed. What a driver thinks of it is not asked here.
func CheckProfileField(name, value string) error {
	if err := CheckProfileName(name); err != nil {
		return err
	}
	f := ProfileFields[slices.IndexFunc(ProfileFields, func(f ProfileField) bool { return f.re.MatchString(name) })]
	if !plain(value) || !f.check(value) {
		return fmt.Errorf("field %s: value %.80q: allowed is %s", name, value, f.Allowed)
	}
	return nil
}

// CheckProfileName checks a field's name alone.
func CheckProfileName(name string) error {
	var all []string
	for _, f := range ProfileFields {
		if f.re.MatchString(name) {
			return nil
		}
		all = append(all, f.Pattern)
	}
	return fmt.Errorf("field %.80q: there is no such field, allowed are %s", name, strings.Join(all, ", "))
}

// ResolveProfile lays the scopes over each other, the widest first. Fields that are not
// allowed are left out.
func ResolveProfile(layers []ProfileLayer) Profile {
	p := Profile{fields: map[string]ProfileValue{}}
	for _, l := range layers {
		for name, v := range l.Fields {
			device, isDriver := strings.CutSuffix(name, ".driver")
			if was, ok := p.fields[name]; isDriver && ok && was.Value != v {
				maps.DeleteFunc(p.fields, func(k string, _ ProfileValue) bool { return strings.HasPrefix(k, device+".param.") })
			}
		}
		for name, v := range l.Fields {
			if CheckProfileField(name, v) == nil {
				p.fields[name] = ProfileValue{v, l.Scope}
			}
		}
	}
	return p
}

// Get returns one field; ok is false where nobody said anything.
func (p Profile) Get(name string) (v ProfileValue, ok bool) {
	v, ok = p.fields[name]
	return v, ok
}

// Names lists the fields that are set, in order.
func (p Profile) Names() []string { return slices.Sorted(maps.Keys(p.fields)) }

// Params are the driver's parameters for a device.
func (p Profile) Params(device string) map[string]ProfileValue {
	out := map[string]ProfileValue{}
	for name, v := range p.fields {
		if param, ok := strings.CutPrefix(name, "device."+device+".param."); ok {
			out[param] = v
		}
	}
	return out
}

// Has reports whether a quirk is said of the host's devices.
func (p Profile) Has(quirk string) bool {
	return slices.Contains(strings.Split(p.fields["quirks"].Value, ","), quirk)
}

// Figures are the settings that class and quirks change, each with its origin.
func (p Profile) Figures() map[string]ProfileValue {
	out := map[string]ProfileValue{}
	if c, ok := p.fields["class"]; ok {
		for name, v := range Classes[c.Value] {
			out[name] = ProfileValue{v, "class " + c.Value + " at " + c.Origin}
		}
	}
	if q, ok := p.fields["quirks"]; ok {
		for _, quirk := range strings.Split(q.Value, ",") {
			for name, v := range Quirks[quirk] {
				out[name] = ProfileValue{v, "quirk " + quirk + " at " + q.Origin}
			}
		}
	}
	return out
}
