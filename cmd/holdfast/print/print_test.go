// SPDX-License-Identifier: Apache-2.0

package print_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

type thing struct {
	ID    string    `json:"id"`
	State string    `json:"state"`
	Since time.Time `json:"since"`
	N     int       `json:"n"`
}

var table = print.Table[thing]{
	Kind: "thing", Plural: "things",
	Name: func(t thing) string { return t.ID },
	Columns: []print.Column[thing]{
		{Name: "THING", Value: func(t thing) any { return t.ID }},
		{Name: "STATE", Value: func(t thing) any { return print.State(t.State) }},
		{Name: "AGE", Value: func(t thing) any { return t.Since }},
		{Name: "N", Wide: true, Value: func(t thing) any { return t.N }},
		{Name: "SINCE", Wide: true, Value: func(t thing) any { return print.Moment(t.Since) }},
	},
}

func things() []thing {
	return []thing{
		{"t-10", "AVAILABLE", now.Add(-5 * time.Minute), 9},
		{"t-2", "FAILED", now.Add(-90 * time.Second), 10},
		{"ü", "", time.Time{}, 1},
	}
}

func options(t *testing.T, format string) print.Options {
	t.Helper()
	f, err := print.ParseFormat(format)
	if err != nil {
		t.Fatal(err)
	}
	return print.Options{Format: f, Now: now}
}

// TestFormats proves each value of -o on a list: data on stdout, nothing else.
func TestFormats(t *testing.T) {
	for format, want := range map[string]string{
		"":     "THING   STATE       AGE\nt-10    AVAILABLE   5m\nt-2     FAILED      90s\nü       -           -\n",
		"wide": "THING   STATE       AGE   N    SINCE\nt-10    AVAILABLE   5m    9    2026-11-21T11:55:00Z\nt-2     FAILED      90s   10   2026-11-21T11:58:30Z\nü       -           -     1    -\n",
		"name": "thing/t-10\nthing/t-2\nthing/ü\n",
		"json": `{
  "items": [
    {
      "id": "t-10",
      "state": "AVAILABLE",
      "since": "2026-11-21T11:55:00Z",
      "n": 9
    },
`,
		"yaml":                         "items:\n- id: t-10\n  \"n\": 9\n",
		"jsonpath={.items[*].id}":      "t-10 t-2 ü\n",
		"jsonpath=.items[1].state":     "FAILED\n",
		"jsonpath={.items[*].nothing}": "\n",
	} {
		var out, errOut bytes.Buffer
		if err := table.List(&out, &errOut, options(t, format), things()); err != nil {
			t.Errorf("%q: %v", format, err)
		}
		if !strings.HasPrefix(out.String(), want) || errOut.Len() > 0 {
			t.Errorf("%q: %s, stderr %q", format, cmp.Diff(want, out.String()), errOut.String())
		}
	}
	for _, bad := range []string{"xml", "jsonpath", "jsonpath={.a", "JSON"} {
		if _, err := print.ParseFormat(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// TestSortBy proves that columns sort by value: h-2 before h-10, ages as times, numbers
// as numbers; and that what names no column is an error.
func TestSortBy(t *testing.T) {
	for by, want := range map[string]string{
		"":         "t-10 t-2 ü",
		"thing":    "t-2 t-10 ü",
		"STATE":    "ü t-10 t-2",
		"age":      "ü t-10 t-2",
		"n":        "ü t-10 t-2",
		".n":       "ü t-10 t-2",
		"{.state}": "ü t-10 t-2",
		".nothing": "t-10 t-2 ü",
		"{.id}":    "t-2 t-10 ü",
	} {
		var out, errOut bytes.Buffer
		o := options(t, "jsonpath={.items[*].id}")
		o.SortBy = by
		if err := table.List(&out, &errOut, o, things()); err != nil {
			t.Errorf("%q: %v", by, err)
		}
		if got := strings.TrimSpace(out.String()); got != want {
			t.Errorf("%q: %s, want %s", by, got, want)
		}
	}
	for _, bad := range []string{"size", "{.a"} {
		o := print.Options{SortBy: bad, Now: now}
		if err := table.List(&bytes.Buffer{}, &bytes.Buffer{}, o, things()); err == nil || !strings.HasPrefix(err.Error(), "sort-by: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestColourIsForStateWordsOnly proves that colour changes no width and no other cell.
func TestColourIsForStateWordsOnly(t *testing.T) {
	o := options(t, "")
	o.Colour = true
	var out bytes.Buffer
	if err := table.List(&out, &out, o, things()); err != nil {
		t.Fatal(err)
	}
	want := "THING   STATE       AGE\nt-10    \x1b[32mAVAILABLE\x1b[0m   5m\nt-2     \x1b[31mFAILED\x1b[0m      90s\nü       -           -\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
	if print.Colour("word") != "word" {
		t.Error("a word that is no state was coloured")
	}
}

// TestEmpty proves that an empty list is talk for people and data for programs.
func TestEmpty(t *testing.T) {
	var out, errOut bytes.Buffer
	if err := table.List(&out, &errOut, options(t, "wide"), nil); err != nil || out.Len() > 0 || errOut.String() != "No things found.\n" {
		t.Errorf("%v, %q, %q", err, out.String(), errOut.String())
	}
	errOut.Reset()
	if err := table.List(&out, &errOut, options(t, "json"), nil); err != nil || out.String() != "{\n  \"items\": []\n}\n" || errOut.Len() > 0 {
		t.Errorf("%v, %q, %q", err, out.String(), errOut.String())
	}
}

// TestStream proves that a watch prints news only, also when all comes again after a
// lost connection, and that time alone is no news.
func TestStream(t *testing.T) {
	var out bytes.Buffer
	s := table.Stream(&out, options(t, ""))
	all := things()
	if err := s.Start(all); err != nil {
		t.Fatal(err)
	}
	later := now.Add(time.Hour)
	changed := all[1]
	changed.State = "AVAILABLE"
	for _, x := range []thing{all[0], all[1], all[2], changed, changed} {
		if err := s.Row(later, x); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 5 || lines[4] != "t-2     AVAILABLE   61m" {
		t.Errorf("%q", lines)
	}
	for format, want := range map[string]string{
		"json":           `{"id":"t-2","state":"AVAILABLE","since":"2026-11-21T11:58:30Z","n":10}` + "\n",
		"yaml":           "---\nid: t-2\n\"n\": 10\nsince: \"2026-11-21T11:58:30Z\"\nstate: AVAILABLE\n",
		"name":           "thing/t-2\n",
		"jsonpath={.id}": "t-2\n",
	} {
		var out bytes.Buffer
		s := table.Stream(&out, options(t, format))
		if err := errors.Join(s.Start(all), s.Row(later, changed)); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%s: %q", format, out.String())
		}
	}
}

// TestAge proves the one number and unit of an age.
func TestAge(t *testing.T) {
	var got []string
	for _, d := range []time.Duration{-time.Hour, 0, 119 * time.Second, 2 * time.Minute, 119 * time.Minute, 2 * time.Hour, 47 * time.Hour, 48 * time.Hour, 1000 * time.Hour} {
		got = append(got, print.Age(now, now.Add(-d)))
	}
	if want := []string{"0s", "0s", "119s", "2m", "119m", "2h", "47h", "2d", "41d"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// failing is an output that takes nothing.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, fmt.Errorf("no space left") }

// TestWriteErrors proves that a full disk or a closed pipe is an error, not silence.
func TestWriteErrors(t *testing.T) {
	for _, format := range []string{"", "json", "yaml", "name", "jsonpath={.items}"} {
		if err := table.List(failing{}, failing{}, options(t, format), things()); err == nil {
			t.Errorf("%q: no error", format)
		}
	}
}
