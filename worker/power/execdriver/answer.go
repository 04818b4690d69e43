// SPDX-License-Identifier: Apache-2.0

package execdriver

import (
	"fmt"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

const (
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
	var a answer
	err := proc.DecodeObject(res.Stdout, names, &a)
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
	e := violation(op, power.Detail(wrong+"; it said "+res.LastWords(), cred))
	e.Code, e.MayHaveRun = res.Exit, command
	return answer{}, e
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

var names = []string{"state", "transitional", "fault", "authentic", "outcome", "identity", "systemUUID", "serial", "fingerprint", "error", "kind", "detail", "retryAfter"}
