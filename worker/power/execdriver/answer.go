// SPDX-License-Identifier: Apache-2.0

package execdriver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

const (
	maxDepth = 4

	minAuthPause = 15 * time.Minute // after a refused log-in (power.md §6.3)
	maxPause     = time.Hour
)

// answer is what a program writes. docs/power-exec.md describes each field.
type answer struct {
	State        *string             `json:"state"`
	Transitional bool                `json:"transitional"`
	Fault        bool                `json:"fault"`
	Authentic    bool                `json:"authentic"`
	Outcome      string              `json:"outcome"`
	Identity     *corepower.Identity `json:"identity"`
	Error        *struct {
		Kind       corepower.Kind `json:"kind"`
		Detail     string         `json:"detail"`
		RetryAfter string         `json:"retryAfter"`
	} `json:"error"`
}

// mayHaveRun are the kinds a program can answer with, and whether a command may have run
// then (power.md §7). Those that are ours, like DeadlinePassed, are not among them.
var mayHaveRun = map[corepower.Kind]bool{
	corepower.AuthFailed: false, corepower.PrivilegeDenied: false, corepower.Unreachable: false, corepower.Timeout: true,
	corepower.SessionLimit: false, corepower.Busy: false, corepower.Unsupported: false, corepower.InvalidState: false,
	corepower.RemoteError: true, corepower.ProtocolViolation: true, corepower.IdentityMismatch: false, corepower.BadConfig: false,
	corepower.ToolMissing: false,
}

func violation(op, detail string) *power.Error {
	return &power.Error{Kind: corepower.ProtocolViolation, Op: op, Detail: detail}
}

// parse reads the whole answer of a program: one object, known fields, exit code 0, or 1
// beside an error.
func parse(op string, res proc.Result, cred power.Credential, command bool) (answer, *power.Error) {
	a, err := decode(res.Stdout)
	wrong := ""
	switch {
	case err != nil:
		wrong = err.Error()
	case a.Error == nil && res.Exit != 0:
		wrong = "no error beside the exit code"
	case a.Error != nil && res.Exit != 1:
		wrong = "an error beside exit code 0; allowed is 1"
	case a.Error != nil:
		return answer{}, a.failure(op, cred, command)
	}
	if wrong == "" {
		return a, nil
	}
	e := violation(op, power.Detail(wrong+"; it said "+said(res), cred))
	e.Code, e.MayHaveRun = res.Exit, command
	return answer{}, e
}

// said is the end of what a program told people.
func said(res proc.Result) string {
	lines := strings.Split(strings.TrimSpace(string(res.Stderr)), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return fmt.Sprintf("%.120q", last)
	}
	return "nothing on standard error"
}

func (a answer) failure(op string, cred power.Credential, command bool) *power.Error {
	ran, known := mayHaveRun[a.Error.Kind]
	if !known {
		e := violation(op, power.Detail(fmt.Sprintf("error kind %.40q is not one a program can answer with", a.Error.Kind), cred))
		e.MayHaveRun = command
		return e
	}
	e := &power.Error{Kind: a.Error.Kind, Op: op, Code: 1, Detail: power.Detail(a.Error.Detail, cred), MayHaveRun: command && ran}
	if d, err := time.ParseDuration(a.Error.RetryAfter); err == nil {
		e.RetryAfter = min(max(d, 0), maxPause)
	}
	if e.Kind == corepower.AuthFailed { // no program talks us into a lock-out
		e.RetryAfter = max(e.RetryAfter, minAuthPause)
	}
	return e
}

func (a answer) reading(op string) (corepower.Reading, *power.Error) {
	r := corepower.Reading{Transitional: a.Transitional, Fault: a.Fault, Authentic: a.Authentic}
	switch {
	case a.State == nil:
		return corepower.Reading{}, violation(op, "the answer has no state")
	case *a.State == "on":
		r.State = corepower.On
	case *a.State == "off":
		r.State = corepower.Off
	default:
		return corepower.Reading{}, violation(op, power.Detail(fmt.Sprintf("state %.40q: allowed are on, off, or an error", *a.State), power.Credential{}))
	}
	r.Raw = "state " + *a.State
	return r, nil
}

// decode reads exactly one object with known fields, each there once and written as
// documented: of {"state":"on","State":"off"} the library would take the last.
func decode(text []byte) (answer, error) {
	if err := plain(text); err != nil {
		return answer{}, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var a answer
	if err := d.Decode(&a); err != nil {
		return answer{}, fmt.Errorf("not an answer: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return answer{}, errors.New("more follows the answer")
	}
	return a, nil
}

var names = []string{"state", "transitional", "fault", "authentic", "outcome", "identity", "systemUUID", "serial", "fingerprint", "error", "kind", "detail", "retryAfter"}

// plain checks nesting and names, which the library does not.
func plain(text []byte) error {
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
				case !slices.Contains(names, name):
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
