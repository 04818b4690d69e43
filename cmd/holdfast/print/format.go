// SPDX-License-Identifier: Apache-2.0

package print

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/yaml"
)

// Format is what -o says. The zero value is a table.
type Format struct {
	kind string
	path *jsonpath.JSONPath
}

// ParseFormat reads the value of -o; the error says what is allowed.
func ParseFormat(s string) (Format, error) {
	switch s {
	case "", "table":
		return Format{}, nil
	case "wide", "json", "yaml", "name":
		return Format{kind: s}, nil
	}
	if tmpl, ok := strings.CutPrefix(s, "jsonpath="); ok {
		p, err := parsePath(tmpl)
		if err != nil {
			return Format{}, fmt.Errorf("output: %q: %w", s, err)
		}
		return Format{kind: "jsonpath", path: p}, nil
	}
	return Format{}, fmt.Errorf("output: %q, allowed are table, wide, json, yaml, name, jsonpath=TEMPLATE", s)
}

func parsePath(tmpl string) (*jsonpath.JSONPath, error) {
	if !strings.Contains(tmpl, "{") {
		tmpl = "{" + tmpl + "}"
	}
	p := jsonpath.New("output").AllowMissingKeys(true)
	if err := p.Parse(tmpl); err != nil {
		return nil, err
	}
	return p, nil
}

// Tabular says whether the format is made of columns.
func (f Format) Tabular() bool { return f.kind == "" || f.kind == "wide" }

// Wide says whether more than usual was asked for.
func (f Format) Wide() bool { return f.kind == "wide" }

// Options say how to write.
type Options struct {
	Format    Format
	NoHeaders bool
	SortBy    string // a column's name, or a jsonpath that starts with . or {
	Colour    bool
	Now       time.Time // ages count from here
}

// Value writes one thing that has no table: JSON, YAML or a jsonpath of it. Other
// formats call text.
func Value(w io.Writer, o Options, v any, text func(io.Writer) error) error {
	switch o.Format.kind {
	case "json", "yaml", "jsonpath":
		return o.Format.encode(w, v)
	}
	return text(w)
}

// encode writes a value in a format that is not made of columns.
func (f Format) encode(w io.Writer, v any) error {
	var b []byte
	var err error
	switch f.kind {
	case "yaml":
		b, err = yaml.Marshal(v)
	case "jsonpath":
		b, err = evaluate(f.path, v)
	default:
		b, err = json.MarshalIndent(v, "", "  ")
	}
	if err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	if len(b) == 0 || b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	_, err = w.Write(b)
	return err
}

// evaluate runs a jsonpath over the JSON of a value, so that names are those of -o json.
func evaluate(p *jsonpath.JSONPath, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var plain any
	if err := json.Unmarshal(b, &plain); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = p.Execute(&out, plain)
	return out.Bytes(), err
}

// Age is the time since t as one number and unit: 90s, 5m, 3h, 12d.
func Age(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(now.Sub(t), 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Exact is a time in UTC to the second.
func Exact(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
