// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Matcher makes the test that a filter stands for. Errors name the field.
func (f HostFilter) Matcher() (func(v1.Host) bool, error) {
	sel, err := parseSelector(f.Labels)
	if err != nil {
		return nil, v1.BadField("labels", "%v", err)
	}
	for _, s := range f.States {
		if !slices.Contains(v1.HostStates, s) {
			return nil, v1.BadField("state", "%q is not one, allowed are %s", s, strings.Join(v1.HostStates, ", "))
		}
	}
	return func(h v1.Host) bool {
		return under(h.Spec.Partition, f.Partition) &&
			(len(f.States) == 0 || slices.Contains(f.States, h.Status.State)) && sel.matches(h.Spec.Labels)
	}, nil
}

// Match says whether the filter selects an event.
func (f EventFilter) Match(e v1.Event) bool {
	return e.Revision > f.After && !e.At.Before(f.Since) &&
		(f.Host == "" || e.Host == f.Host) && under(e.Partition, f.Partition) &&
		(f.Type == "" || e.Type == f.Type) && (f.Severity == "" || e.Severity == f.Severity)
}

// under says whether a path is the partition or below it; "" holds everything.
func under(path, partition string) bool {
	return partition == "" || path == partition || strings.HasPrefix(path, partition+"/")
}

// requirement is one term of a label selector.
type requirement struct {
	key    string
	values []string // nil: only presence matters
	not    bool
}

type selector []requirement

// matches says whether labels satisfy every term. As in Kubernetes, != and notin are
// also true where the label is missing.
func (s selector) matches(labels map[string]string) bool {
	for _, r := range s {
		v, ok := labels[r.key]
		if hit := ok && (r.values == nil || slices.Contains(r.values, v)); hit == r.not {
			return false
		}
	}
	return true
}

// parseSelector reads a=b, a==b, a!=b, a in (b,c), a notin (b,c), a, !a, joined by commas.
func parseSelector(text string) (selector, error) {
	var out selector
	for rest := strings.TrimSpace(text); rest != ""; {
		term := rest
		end := strings.IndexByte(rest, ',')
		if open := strings.IndexByte(rest, '('); open >= 0 && (end < 0 || open < end) {
			shut := strings.IndexByte(rest, ')')
			if shut < open {
				return nil, fmt.Errorf("%q: no closing parenthesis", rest)
			}
			end = shut + 1
		}
		if end < 0 {
			end = len(rest)
		}
		term, rest = strings.TrimSpace(rest[:end]), strings.TrimSpace(rest[end:])
		if rest != "" && rest[0] != ',' {
			return nil, fmt.Errorf("%q: expected a comma before %q", text, rest)
		}
		rest = strings.TrimSpace(strings.TrimPrefix(rest, ","))
		r, err := parseTerm(term)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func parseTerm(term string) (requirement, error) {
	var r requirement
	bad := fmt.Errorf("%q: not a label term, allowed are a=b, a!=b, a in (b,c), a notin (b,c), a, !a", term)
	if open := strings.IndexByte(term, '('); open >= 0 {
		f := strings.Fields(term[:open])
		if len(f) != 2 || f[1] != "in" && f[1] != "notin" {
			return r, bad
		}
		r.key, r.not, r.values = f[0], f[1] == "notin", []string{}
		for v := range strings.SplitSeq(strings.TrimSuffix(term[open+1:], ")"), ",") {
			r.values = append(r.values, strings.TrimSpace(v))
		}
	} else if k, v, ok := strings.Cut(term, "="); ok {
		k, r.not = strings.CutSuffix(k, "!")
		r.key, r.values = strings.TrimSpace(k), []string{strings.TrimSpace(strings.TrimPrefix(v, "="))}
	} else {
		r.key, r.not = strings.CutPrefix(term, "!")
	}
	if r.key == "" || strings.ContainsAny(r.key, " !()") || slices.ContainsFunc(r.values, func(v string) bool { return strings.ContainsAny(v, " !()=") }) {
		return r, bad
	}
	return r, nil
}
