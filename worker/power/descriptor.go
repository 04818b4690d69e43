// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
)

// Descriptor says what a driver is, which parameters it takes and what it can do.
type Descriptor struct {
	Kind         string
	Summary      string
	Params       []Param
	Capabilities Capabilities
}

// Capabilities are promises of a driver, used to build and check levels.
type Capabilities struct {
	Verbs        []corepower.Verb
	Identity     bool
	Authentic    bool // readings are tied to our credentials by cryptography
	Independent  bool // does not share fate with the host's mains
	Blocking     bool // spawns processes: bounded pool, not for fleet sync
	MaxAssurance corepower.Assurance
}

// ParamType is how a parameter's text is read.
type ParamType string

const (
	ParamString   ParamType = "string"
	ParamInt      ParamType = "int"
	ParamBool     ParamType = "bool"
	ParamDuration ParamType = "duration"
)

// Param is one parameter of a driver.
type Param struct {
	Name     string
	Type     ParamType
	Default  string
	Allowed  []string // the only values accepted; empty: any of the type
	Required bool
	Help     string
}

// Values checks params against the schema and returns them with defaults filled in.
// The error is a BadConfig naming the parameter, its value and what is allowed.
func (d Descriptor) Values(params map[string]string) (map[string]string, error) {
	op := "check parameters of driver " + d.Kind
	out := make(map[string]string, len(d.Params))
	names := make([]string, 0, len(d.Params))
	for _, p := range d.Params {
		names = append(names, p.Name)
		v, set := params[p.Name]
		switch {
		case !set && p.Required:
			return nil, BadConfig(op, "parameter %q: is required (%s)", p.Name, p.Help)
		case !set:
			v = p.Default
		default:
			if err := p.check(v); err != nil {
				return nil, BadConfig(op, "parameter %q: value %q: %v", p.Name, v, err)
			}
		}
		out[p.Name] = v
	}
	for name := range params {
		if !slices.Contains(names, name) {
			return nil, BadConfig(op, "parameter %q: unknown, allowed are %s", name, strings.Join(names, ", "))
		}
	}
	return out, nil
}

func (p Param) check(v string) error {
	if len(p.Allowed) > 0 {
		if !slices.Contains(p.Allowed, v) {
			return fmt.Errorf("allowed are %s", strings.Join(p.Allowed, ", "))
		}
		return nil
	}
	var err error
	switch p.Type {
	case ParamInt:
		_, err = strconv.Atoi(v)
	case ParamBool:
		_, err = strconv.ParseBool(v)
	case ParamDuration:
		_, err = time.ParseDuration(v)
	default:
		if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("control characters are not allowed")
		}
	}
	if err != nil {
		return fmt.Errorf("allowed is a value of type %s", p.Type)
	}
	return nil
}

// Registry finds drivers by kind. It is fixed after construction.
type Registry struct{ drivers map[string]Driver }

// NewRegistry makes a registry; two drivers of one kind are an error.
func NewRegistry(drivers ...Driver) (*Registry, error) {
	r := &Registry{drivers: map[string]Driver{}}
	for _, d := range drivers {
		if _, twice := r.drivers[d.Kind()]; twice {
			return nil, fmt.Errorf("register power driver %q: already registered", d.Kind())
		}
		r.drivers[d.Kind()] = d
	}
	return r, nil
}

// Kinds lists the registered kinds in order.
func (r *Registry) Kinds() []string {
	kinds := make([]string, 0, len(r.drivers))
	for k := range r.drivers {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	return kinds
}

// Driver returns the driver of a kind; the error names the kinds there are.
func (r *Registry) Driver(kind string) (Driver, error) {
	if d, ok := r.drivers[kind]; ok {
		return d, nil
	}
	return nil, BadConfig("find power driver", "kind %q: allowed are %s", kind, strings.Join(r.Kinds(), ", "))
}

// Close ends what drivers keep between transactions; none is kept afterwards. It is
// idempotent.
func (r *Registry) Close() {
	for _, d := range r.drivers {
		if c, ok := d.(interface{ Close() }); ok {
			c.Close()
		}
	}
}
