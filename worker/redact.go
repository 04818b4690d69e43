// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// What an exported incident may not tell, wherever it stands: nothing of ours writes a
// secret into a record, but people write reasons and devices write error texts.
var (
	secretField = regexp.MustCompile(`(?i)^(password|passwd|passphrase|secret|token|bearer|community|api_?key|auth_?key|priv_?key|private_?key|credentials?|sealed|hash)$`)
	secretTexts = []struct {
		find *regexp.Regexp
		put  string
	}{
		{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), notShown},
		{regexp.MustCompile(`holdfast:enc:[^\s"]+`), notShown},
		{regexp.MustCompile(`hft\.[A-Za-z0-9._-]+`), notShown},
		{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`), "$1 " + notShown},
		{regexp.MustCompile(`(://)[^/\s@"]*@`), "$1" + notShown + "@"},
		{regexp.MustCompile(`(?i)\b(password|passwd|passphrase|pw|pwd|secret|token|community|api[_-]?key)(\s*[=:]\s*|\s+is\s+)("[^"]*"|'[^']*'|[^\s,;"')]+)`), "$1$2" + notShown},
	}
)

const notShown = "(not shown)"

// withoutSecrets is the export with nothing in it that looks like a secret. What is
// replayed stays what it was: verdicts do not rest on words.
func withoutSecrets(x v1.IncidentExport) (clean v1.IncidentExport, err error) {
	b, err := json.Marshal(x)
	if err != nil {
		return clean, fmt.Errorf("encode incident %s: %w", x.Incident.ID, err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return clean, fmt.Errorf("decode incident %s: %w", x.Incident.ID, err)
	}
	if b, err = json.Marshal(scrub(tree)); err == nil {
		err = json.Unmarshal(b, &clean)
	}
	return clean, err
}

func scrub(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k, sub := range x {
			if _, text := sub.(string); text && secretField.MatchString(k) {
				x[k] = notShown
			} else {
				x[k] = scrub(sub)
			}
		}
	case []any:
		for k := range x {
			x[k] = scrub(x[k])
		}
	case string:
		for _, s := range secretTexts {
			x = s.find.ReplaceAllString(x, s.put)
		}
		return x
	}
	return v
}
