// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// What leaves a worker for other eyes, an exported incident or a support bundle, holds
// nothing that is, or looks like, a secret: nothing of ours writes one into a record in the
// clear, but people write reasons, and devices write error texts.

const notShown = "(not shown)"

// private are the fields whose values leave no worker: secrets, what proves them, and what
// people put secrets into although they should not.
var private = map[string]bool{
	"sealed": true, "hash": true, "password": true, "passphrase": true, "token": true, "credential": true, "credentials": true,
	"key": true, "community": true, "params": true, "args": true, "authorization": true,
}

// secretField are the names of fields in exported incidents, whose keys and arguments are
// none of these.
var secretField = regexp.MustCompile(`(?i)^(password|passwd|passphrase|secret|token|bearer|community|api_?key|auth_?key|priv_?key|private_?key|credentials?|sealed|hash)$`)

// reference is a value of a field called secret that is none.
var reference = regexp.MustCompile(`^(sealed|env:[A-Za-z_][A-Za-z0-9_]*|file:[^\s]*)$`)

// inText are secrets by their looks, wherever they stand.
var inText = []struct {
	looks *regexp.Regexp
	is    string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), notShown},
	{regexp.MustCompile(`holdfast:enc:[^\s"]+`), notShown},
	{regexp.MustCompile(`\bhf[a-z]\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*`), notShown},
	{regexp.MustCompile(`\bwhsec_[A-Za-z0-9+/=]+`), notShown},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`), "$1 " + notShown},
	{regexp.MustCompile(`(://)[^/\s@"]+@`), "$1" + notShown + "@"},
	{regexp.MustCompile(`(?i)\b(password|passwd|passphrase|pw|pwd|secret|token|community|api[_-]?key)(\s*[=:]\s*|\s+is\s+)("[^"]*"|'[^']*'|[^\s,;"')]+)`), "$1$2" + notShown},
}

func redactText(s string) string {
	for _, x := range inText {
		s = x.looks.ReplaceAllString(s, x.is)
	}
	return s
}

// redacted is a record without its secrets; what is no JSON is not shown at all.
func redacted(value []byte) json.RawMessage {
	if b, err := rewritten(value, func(name, text string) bool {
		return private[name] || name == "secret" && !reference.MatchString(text)
	}); err == nil {
		return b
	}
	return json.RawMessage(`"` + notShown + `"`)
}

// withoutSecrets is the export with nothing in it that looks like a secret. What is
// replayed stays what it was: verdicts do not rest on words.
func withoutSecrets(x v1.IncidentExport) (clean v1.IncidentExport, err error) {
	b, err := json.Marshal(x)
	if err == nil {
		b, err = rewritten(b, func(name, _ string) bool { return secretField.MatchString(name) })
	}
	if err == nil {
		err = json.Unmarshal(b, &clean)
	}
	if err != nil {
		return clean, fmt.Errorf("redact incident %s: %w", x.Incident.ID, err)
	}
	return clean, nil
}

// rewritten is a JSON value with the texts of hidden fields, and what looks like a secret in
// others, taken out.
func rewritten(value []byte, hidden func(name, text string) bool) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	return json.Marshal(redact("", tree, hidden))
}

func redact(name string, v any, hidden func(name, text string) bool) any {
	switch v := v.(type) {
	case map[string]any:
		if private[name] && hidden(name, "") {
			return notShown
		}
		for k, x := range v {
			v[k] = redact(strings.ToLower(k), x, hidden)
		}
	case []any:
		if private[name] && hidden(name, "") {
			return notShown
		}
		for i, x := range v {
			v[i] = redact(name, x, hidden)
		}
	case string:
		switch {
		case v == "":
			return v
		case hidden(name, v):
			return notShown
		}
		return redactText(v)
	}
	return v
}
