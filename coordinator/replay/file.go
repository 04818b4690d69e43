// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Format and FileVersion name an exported incident (docs/ha.md, "The exported file").
const (
	Format      = "holdfast-incident"
	FileVersion = 1
	MaxFile     = 64 << 20 // bytes of a file that Parse reads
)

// File is what Run needs of an exported incident.
type File struct {
	Host     string
	Incident string
	Software string // version of the worker that exported it
	Steps    []Step
}

// Head reads what a file says of itself: the version of the worker that exported it. The
// error is that of a file that is no exported incident, not whole, or newer than this code.
func Head(data []byte) (software string, err error) {
	if len(data) > MaxFile {
		return "", fmt.Errorf("the file has %d bytes, allowed are at most %d", len(data), MaxFile)
	}
	var head struct {
		Format   string `json:"format"`
		Version  int    `json:"version"`
		Software string `json:"software"`
	}
	if err := decode(data, &head); err != nil {
		return "", notWhole(data, err)
	}
	switch {
	case head.Format != Format:
		return "", fmt.Errorf("format: %q, allowed is %q: this is no exported incident (holdfast incident export)", clip(head.Format), Format)
	case head.Version > FileVersion:
		return "", fmt.Errorf("version: %d, this holdfast reads up to %d: use the one that wrote the file (%s) or a later one", head.Version, FileVersion, clip(head.Software))
	case head.Version < 1:
		return "", fmt.Errorf("version: %d, allowed is %d", head.Version, FileVersion)
	}
	return head.Software, nil
}

// Parse reads an exported incident. What it is not, or not whole, comes as an error that
// names the field, its value and what is allowed.
func Parse(data []byte) (File, error) {
	software, err := Head(data)
	if err != nil {
		return File{}, err
	}
	var body struct {
		Incident struct {
			ID   string `json:"id"`
			Host string `json:"host"`
		} `json:"incident"`
		Steps []json.RawMessage `json:"steps"`
	}
	if err := decode(data, &body); err != nil {
		return File{}, notWhole(data, err)
	}
	f := File{Host: body.Incident.Host, Incident: body.Incident.ID, Software: software}
	if f.Host == "" || f.Incident == "" {
		return File{}, errors.New("incident: id and host are missing, the file is not whole")
	}
	if len(body.Steps) == 0 {
		return f, errors.New("steps: there are none: what the decisions were made of is not kept any more, or was not yet recorded")
	}
	for n, raw := range body.Steps {
		s, err := parseStep(raw)
		if err != nil {
			return f, fmt.Errorf("steps[%d]: %w", n, err)
		}
		if k := len(f.Steps); k > 0 && s.N <= f.Steps[k-1].N {
			return f, fmt.Errorf("steps[%d]: n: %d after %d, allowed are rising numbers", n, s.N, f.Steps[k-1].N)
		}
		f.Steps = append(f.Steps, s)
	}
	return f, nil
}

func parseStep(raw json.RawMessage) (Step, error) {
	var s Step
	if err := decode(raw, &s); err != nil {
		return s, err
	}
	switch {
	case s.V > Version || s.V < 1:
		return s, fmt.Errorf("v: %d, this holdfast reads %d", s.V, Version)
	case s.N < 0:
		return s, fmt.Errorf("n: %d, allowed are numbers from 0", s.N)
	case s.Event.At.IsZero():
		return s, errors.New("event.at: missing")
	case s.Left == "" && len(s.Change) == 0:
		return s, errors.New("change: missing")
	case s.Base != nil && s.Policy == nil:
		return s, errors.New("policy: missing where a base is")
	case s.Base != nil && s.Base.Host == "":
		return s, errors.New("base.host: missing")
	}
	return s, nil
}

// decode reads one JSON value and nothing after it; numbers stay as they are written.
func decode(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows after the end")
	}
	return nil
}

// notWhole says in words why a file is none of ours.
func notWhole(data []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return errors.New("the file is empty")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &syntax) && strings.Contains(err.Error(), "unexpected end"):
		return fmt.Errorf("the file ends in the middle, after %d bytes: it was cut off", len(data))
	case errors.As(err, &syntax):
		return fmt.Errorf("no exported incident (holdfast incident export): byte %d: %w", syntax.Offset, err)
	case errors.As(err, &kind):
		return fmt.Errorf("no exported incident (holdfast incident export): field %s: %w", clip(kind.Field), err)
	}
	return fmt.Errorf("no exported incident (holdfast incident export): %w", err)
}

// clip keeps what a foreign file says short.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
