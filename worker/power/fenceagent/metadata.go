// SPDX-License-Identifier: Apache-2.0

package fenceagent

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	maxParameters = 256
	maxActions    = 64
	maxOptions    = 256 // values of one select
	maxText       = 1024
)

var wordForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// metadata is what an agent says about itself.
type metadata struct {
	params  map[string]parameter
	renamed map[string]string // obsolete name → present name
	actions []string
	fabric  bool // it cuts storage or network: "on" is unfencing
}

type parameter struct {
	typ     string
	options []string // of a select
}

func (m metadata) has(param string) bool  { _, ok := m.params[param]; return ok }
func (m metadata) can(action string) bool { return slices.Contains(m.actions, action) }
func (m metadata) ipmitool() bool         { return m.has("ipmitool_path") }
func (m metadata) canonical(n string) string {
	if now, ok := m.renamed[n]; ok {
		return now
	}
	return n
}

// parseMetadata reads the XML of "agent -o metadata". Whatever is not that is an error.
func parseMetadata(text []byte) (metadata, error) {
	var doc struct {
		XMLName xml.Name `xml:"resource-agent"`
		Params  []struct {
			Name      string `xml:"name,attr"`
			Obsoletes string `xml:"obsoletes,attr"`
			Content   struct {
				Type    string `xml:"type,attr"`
				Options []struct {
					Value string `xml:"value,attr"`
				} `xml:"option"`
			} `xml:"content"`
		} `xml:"parameters>parameter"`
		Actions []struct {
			Name      string `xml:"name,attr"`
			Automatic string `xml:"automatic,attr"`
		} `xml:"actions>action"`
	}
	d := xml.NewDecoder(bytes.NewReader(bytes.TrimSpace(text)))
	if err := d.Decode(&doc); err != nil {
		return metadata{}, fmt.Errorf("not the metadata of an agent: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return metadata{}, errors.New("more follows the metadata")
	}
	if n := len(doc.Params); n > maxParameters {
		return metadata{}, fmt.Errorf("%d parameters, allowed are %d", n, maxParameters)
	}
	if n := len(doc.Actions); n > maxActions {
		return metadata{}, fmt.Errorf("%d actions, allowed are %d", n, maxActions)
	}
	m := metadata{params: map[string]parameter{}, renamed: map[string]string{}}
	for _, p := range doc.Params {
		switch {
		case !wordForm.MatchString(p.Name):
			return metadata{}, fmt.Errorf("parameter %.80q: not a name", p.Name)
		case m.has(p.Name):
			return metadata{}, fmt.Errorf("parameter %q is there twice", p.Name)
		case p.Obsoletes != "" && !wordForm.MatchString(p.Obsoletes):
			return metadata{}, fmt.Errorf("parameter %q obsoletes %.80q: not a name", p.Name, p.Obsoletes)
		case len(p.Content.Options) > maxOptions:
			return metadata{}, fmt.Errorf("parameter %q: %d values, allowed are %d", p.Name, len(p.Content.Options), maxOptions)
		}
		q := parameter{typ: p.Content.Type}
		for _, o := range p.Content.Options {
			q.options = append(q.options, o.Value)
		}
		m.params[p.Name] = q
		if p.Obsoletes != "" && p.Obsoletes != p.Name {
			m.renamed[p.Obsoletes] = p.Name
		}
	}
	for old := range m.renamed { // a present name that is obsolete itself would lead in circles
		if m.renamed[m.renamed[old]] != "" {
			return metadata{}, fmt.Errorf("parameter %q is obsoleted twice over", old)
		}
	}
	for _, a := range doc.Actions {
		if !wordForm.MatchString(a.Name) {
			return metadata{}, fmt.Errorf("action %.80q: not a name", a.Name)
		}
		m.actions = append(m.actions, a.Name)
		if a.Name == "on" && (a.Automatic == "1" || strings.EqualFold(a.Automatic, "true")) {
			m.fabric = true
		}
	}
	if len(m.actions) == 0 {
		return metadata{}, errors.New("no action is named")
	}
	return m, nil
}

// check says why a value is not one of the parameter's.
func (p parameter) check(v string) error {
	if err := lineSafe(v); err != nil {
		return err
	}
	switch p.typ {
	case "boolean":
		if !slices.Contains([]string{"1", "yes", "on", "true", "0", "no", "off", "false"}, strings.ToLower(v)) {
			return errors.New("allowed are true and false")
		}
	case "integer", "second":
		if n, err := strconv.Atoi(v); err != nil || n < 0 {
			return errors.New("allowed is a whole number, not negative")
		}
	case "select":
		if !slices.Contains(p.options, v) {
			return fmt.Errorf("allowed are %s", strings.Join(p.options, ", "))
		}
	}
	return nil
}
