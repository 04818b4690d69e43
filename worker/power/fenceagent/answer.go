// SPDX-License-Identifier: Apache-2.0

package fenceagent

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// Pauses told to the caller (power.md §7).
const (
	retryBusy    = 2 * time.Second
	retrySession = 10 * time.Second
	retryAuth    = 15 * time.Minute

	loginTimeout = 5 * time.Second // an agent's own wait for a prompt, unless set
	maxListed    = 1024
)

// parseStatus reads the answer to "status": exit 0 with "Status: ON", or exit 2 with
// "Status: OFF", and nothing else on standard output.
func parseStatus(res proc.Result) (corepower.State, bool) {
	switch text := strings.ToUpper(string(bytes.TrimSpace(res.Stdout))); {
	case res.Exit == 0 && text == "STATUS: ON":
		return corepower.On, true
	case res.Exit == 2 && text == "STATUS: OFF":
		return corepower.Off, true
	}
	return corepower.Unknown, false
}

// alreadyThere reports whether the agent says that it sent no command.
func alreadyThere(stdout []byte) bool {
	last := stdout[bytes.LastIndexByte(bytes.TrimSpace(stdout), '\n')+1:]
	return bytes.HasPrefix(bytes.TrimSpace(last), []byte("Success: Already "))
}

// parseList reads the answer to "list": lines of outlet, separator, label.
func parseList(stdout []byte, separator string) (map[string]string, error) {
	out := map[string]string{}
	for line := range strings.Lines(string(stdout)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		outlet, label, ok := strings.Cut(line, separator)
		if !ok {
			return nil, fmt.Errorf("line %.80q is not an outlet and its label", line)
		}
		if _, twice := out[outlet]; twice {
			return nil, fmt.Errorf("outlet %.80q is listed twice", outlet)
		}
		if out[outlet] = label; len(out) > maxListed {
			return nil, fmt.Errorf("more than %d outlets", maxListed)
		}
	}
	return out, nil
}

// reasons give agents' words their kind, the first that fits. The first group is
// ipmitool's (power.md §7), the others the fence library's and the system's.
var reasons = []struct {
	words string
	kind  corepower.Kind
}{
	{"rakp 2 hmac is invalid", corepower.AuthFailed},
	{"unauthorized name", corepower.AuthFailed},
	{"unauthorized role requested", corepower.PrivilegeDenied},
	{"invalid role", corepower.PrivilegeDenied},
	{"insufficient privilege level", corepower.PrivilegeDenied},
	{"insufficient resources", corepower.SessionLimit},
	{"node busy", corepower.Busy},
	{"no matching cipher suite", corepower.BadConfig},
	{"no matching authentication", corepower.BadConfig},
	{"invalid authentication algorithm", corepower.BadConfig},
	{"ipmitool not found", corepower.ToolMissing},

	{"does not have the correct privileges", corepower.PrivilegeDenied},
	{"permission denied (", corepower.AuthFailed}, // ssh; a file that is not ours is no log-in
	{"permission denied, please try again", corepower.AuthFailed},
	{"authentication failed", corepower.AuthFailed},
	{"connection refused", corepower.Unreachable},
	{"no route to host", corepower.Unreachable},
	{"network is unreachable", corepower.Unreachable},
	{"name or service not known", corepower.Unreachable},
	{"temporary failure in name resolution", corepower.Unreachable},
	{"could not resolve", corepower.Unreachable},
	{"unable to connect/login", corepower.AuthFailed}, // see classify
	{"connection timed out", corepower.Timeout},
	{"connection lost", corepower.Timeout},
	{"unrecognised action", corepower.Unsupported},
	{"failed: you have to", corepower.BadConfig},
	{"is not a valid", corepower.BadConfig},
	{"no module named", corepower.ToolMissing},
	{"unable to run", corepower.ToolMissing},
	{"unable to establish ipmi", corepower.Unreachable}, // and no reason among those above
}

// classify turns an answer that is none into an error. A command may have run unless
// the kind, or the agent's words, exclude it.
func (c *conn) classify(op string, res proc.Result, took time.Duration, command bool) *power.Error {
	e := &power.Error{Kind: corepower.RemoteError, Op: op + " " + c.target.Address, Code: res.Exit,
		Detail: power.Detail(c.agent+": "+lastLine(res), c.cred)}
	text := strings.ToLower(string(res.Stderr) + "\n" + string(res.Stdout))
	found := ""
	for _, r := range reasons {
		if strings.Contains(text, r.words) {
			e.Kind, found = r.kind, r.words
			break
		}
	}
	switch {
	case found == "unable to connect/login" && took >= loginTimeout:
		e.Kind = corepower.Unreachable // nobody asked for a password at all
	case found == "" && (res.Exit == 0 || res.Exit == 2):
		e.Kind = corepower.ProtocolViolation // it says it went well, and not what
	}
	switch e.Kind {
	case corepower.AuthFailed:
		e.RetryAfter = retryAuth
	case corepower.SessionLimit:
		e.RetryAfter = retrySession
	case corepower.Busy:
		e.RetryAfter = retryBusy
	}
	// fence_ipmilan says this only of the reading it begins with.
	early := c.meta.ipmitool() && strings.Contains(text, "unable to obtain correct plug status")
	e.MayHaveRun = command && !e.Kind.Final() && !early
	return e
}

// lastLine is what the agent said last, without the time stamp of its log.
func lastLine(res proc.Result) string {
	for _, text := range [][]byte{res.Stderr, res.Stdout} {
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
			if _, words, ok := strings.Cut(last, " ERROR: "); ok {
				return words
			}
			return last
		}
	}
	return "no word of explanation"
}
