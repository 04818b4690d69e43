// SPDX-License-Identifier: Apache-2.0

package api

import (
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// TestSelector proves the label selector: commas join terms, != and notin also hold
// where the label is missing, and what is none is an error.
func TestSelector(t *testing.T) {
	labels := map[string]string{"rack": "7", "os": "bookworm", "empty": ""}
	for text, want := range map[string]bool{
		"":                              true,
		"rack=7":                        true,
		"rack==7":                       true,
		" rack = 7 , os=bookworm ":      true,
		"rack=8":                        false,
		"rack!=8":                       true,
		"rack!=7":                       false,
		"pdu!=a":                        true,
		"rack in (6,7)":                 true,
		"rack in (6, 8),os=bookworm":    false,
		"rack notin (6,8),os=bookworm":  true,
		"pdu notin (a)":                 true,
		"os=bookworm,rack in (7),!pdu":  true,
		"rack":                          true,
		"!rack":                         false,
		"empty=":                        true,
		"rack in (7) , os in (x,y)":     false,
		"rack in (7),os in (bookworm,)": true,
	} {
		s, err := parseSelector(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := s.matches(labels); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	for _, text := range []string{"=7", "rack in 7", "rack in (7", "rack of (7)", "a b", "rack in (7) os=x", "!", "a!b", "rack)in(7"} {
		if _, err := parseSelector(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// FuzzSelector proves that no text makes the selector panic.
func FuzzSelector(f *testing.F) {
	for _, s := range []string{"a=b,c!=d,e in (x,y)", "a notin (", ")(", ",,", "!"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		if s, err := parseSelector(text); err == nil {
			s.matches(map[string]string{"a": "b"})
		}
	})
}

// TestEventFilter proves that each field narrows the selection, and that a partition
// holds what is below it and not what only begins alike.
func TestEventFilter(t *testing.T) {
	now := time.Unix(1000, 0)
	e := v1.Event{Revision: 5, At: now, Host: "h", Partition: "z1/p1", Type: "t", Severity: "page"}
	for _, c := range []struct {
		f    EventFilter
		want bool
	}{
		{EventFilter{}, true},
		{EventFilter{After: 4}, true}, {EventFilter{After: 5}, false},
		{EventFilter{Since: now}, true}, {EventFilter{Since: now.Add(1)}, false},
		{EventFilter{Partition: "z1"}, true}, {EventFilter{Partition: "z1/p1"}, true}, {EventFilter{Partition: "z"}, false}, {EventFilter{Partition: "z1/p1/c1"}, false},
		{EventFilter{Host: "i"}, false}, {EventFilter{Type: "u"}, false}, {EventFilter{Severity: "info"}, false},
	} {
		if got := c.f.Match(e); got != c.want {
			t.Errorf("%+v: %v", c.f, got)
		}
	}
}
