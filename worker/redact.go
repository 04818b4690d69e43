// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/json"
	"regexp"
	"strings"
)

const notShown = "(not shown)"

// private are the fields whose values leave no worker: secrets, what proves them, and what
// people put secrets into although they should not.
var private = map[string]bool{
	"sealed": true, "hash": true, "password": true, "passphrase": true, "token": true, "credential": true, "credentials": true,
	"key": true, "community": true, "params": true, "args": true, "authorization": true,
}

// reference is a value of a field called secret that is none.
var reference = regexp.MustCompile(`^(sealed|env:[A-Za-z_][A-Za-z0-9_]*|file:[^\s]*)$`)

// inText are secrets by their looks, wherever they stand.
var inText = []struct {
	looks *regexp.Regexp
	is    string
}{
	{regexp.MustCompile(`holdfast:enc:[A-Za-z0-9:._-]*:[A-Za-z0-9+/=]+`), notShown},
	{regexp.MustCompile(`\bhf[a-z]\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*`), notShown},
	{regexp.MustCompile(`\bwhsec_[A-Za-z0-9+/=]+`), notShown},
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), notShown},
	{regexp.MustCompile(`://[^/\s"@]+@`), "://" + notShown + "@"},
}

func redactText(s string) string {
	for _, x := range inText {
		s = x.looks.ReplaceAllLiteralString(s, x.is)
	}
	return s
}

// redacted is a record without its secrets; what is no JSON is not shown at all.
func redacted(value []byte) json.RawMessage {
	var v any
	if json.Unmarshal(value, &v) == nil {
		if b, err := json.Marshal(redact("", v)); err == nil {
			return b
		}
	}
	return json.RawMessage(`"` + notShown + `"`)
}

func redact(name string, v any) any {
	name = strings.ToLower(name)
	switch v := v.(type) {
	case map[string]any:
		if private[name] {
			return notShown
		}
		for k, x := range v {
			v[k] = redact(k, x)
		}
	case []any:
		if private[name] {
			return notShown
		}
		for i, x := range v {
			v[i] = redact(name, x)
		}
	case string:
		switch {
		case v == "":
			return v
		case private[name], name == "secret" && !reference.MatchString(v):
			return notShown
		}
		return redactText(v)
	}
	return v
}
