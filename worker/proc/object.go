// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

const maxDepth = 4

// DecodeObject reads what a child answered: exactly one JSON object, each field one of
// fields, there once and written exactly so; of {"state":"on","State":"off"} the library
// would take the last. Nothing may follow it.
func DecodeObject(text []byte, fields []string, into any) error {
	if err := plain(text, fields); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("not an answer: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more follows the answer")
	}
	return nil
}

// plain checks nesting and names, which the library does not.
func plain(text []byte, fields []string) error {
	d := json.NewDecoder(bytes.NewReader(text))
	type level struct {
		object, value bool // value: the next token of the object is a value
		seen          []string
	}
	var open []level
	for first := true; ; first = false {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) && len(open) == 0 && !first {
			return nil
		}
		if err != nil {
			return fmt.Errorf("not an answer: %w", err)
		}
		if first && tok != json.Delim('{') {
			return errors.New("not an answer: allowed is one object")
		}
		if n := len(open); n > 0 && open[n-1].object && !open[n-1].value {
			if name, ok := tok.(string); ok {
				switch {
				case !slices.Contains(fields, name):
					return fmt.Errorf("field %.40q is unknown", name)
				case slices.Contains(open[n-1].seen, name):
					return fmt.Errorf("field %q is there twice", name)
				}
				open[n-1].seen, open[n-1].value = append(open[n-1].seen, name), true
				continue
			}
		} else if n > 0 {
			open[n-1].value = false
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			if len(open) == maxDepth {
				return fmt.Errorf("nested more than %d deep", maxDepth)
			}
			open = append(open, level{object: tok == json.Delim('{')})
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
	}
}

// LastWords is the end of what a child told people on standard error, quoted.
func (r Result) LastWords() string {
	lines := bytes.Split(bytes.TrimSpace(r.Stderr), []byte("\n"))
	if last := bytes.TrimSpace(lines[len(lines)-1]); len(last) > 0 {
		return fmt.Sprintf("%.120q", last)
	}
	return "nothing on standard error"
}
