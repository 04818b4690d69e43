// SPDX-License-Identifier: Apache-2.0

package print

import (
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// State is a cell that may be coloured.
type State string

// Moment is a cell that shows an exact time, never an age.
type Moment time.Time

// Column is one column of a table of T. Value returns a string, an int, a State, a
// Moment, or a time.Time, which is shown as an age.
type Column[T any] struct {
	Name  string
	Wide  bool // only with -o wide
	Value func(T) any
}

// Table says how things of one kind are listed.
type Table[T any] struct {
	Kind, Plural string // host, hosts
	Name         func(T) string
	Columns      []Column[T]
}

// List writes items. None: a line on errOut in the formats for people, no error.
func (t Table[T]) List(out, errOut io.Writer, o Options, items []T) error {
	if err := t.sort(o.SortBy, items); err != nil {
		return err
	}
	if !o.Format.Tabular() && o.Format.kind != "name" {
		if items == nil {
			items = []T{}
		}
		return o.Format.encode(out, struct {
			Items []T `json:"items"`
		}{items})
	}
	if len(items) == 0 {
		_, err := fmt.Fprintf(errOut, "No %s found.\n", t.Plural)
		return err
	}
	return t.Stream(out, o).start(items)
}

// One writes a single item: its object in json and yaml, else a list of one.
func (t Table[T]) One(out, errOut io.Writer, o Options, item T) error {
	if o.Format.Tabular() || o.Format.kind == "name" {
		return t.List(out, errOut, o, []T{item})
	}
	return o.Format.encode(out, item)
}

// Stream writes items as they come: rows below each other, or one object per line.
type Stream[T any] struct {
	t      Table[T]
	out    io.Writer
	o      Options
	cols   []Column[T]
	widths []int
	last   map[string]string // exact text of the last row of each name
}

// Stream begins a watch.
func (t Table[T]) Stream(out io.Writer, o Options) *Stream[T] {
	s := &Stream[T]{t: t, out: out, o: o, last: map[string]string{}}
	for _, c := range t.Columns {
		if !c.Wide || o.Format.kind == "wide" {
			s.cols = append(s.cols, c)
			s.widths = append(s.widths, len(c.Name))
		}
	}
	return s
}

// Start writes what there is before the watch, as a list. Formats that are not made of
// columns take it from the watch itself.
func (s *Stream[T]) Start(items []T) error {
	if !s.o.Format.Tabular() {
		return nil
	}
	if err := s.t.sort(s.o.SortBy, items); err != nil {
		return err
	}
	return s.start(items)
}

func (s *Stream[T]) start(items []T) error {
	if s.o.Format.kind == "name" {
		for _, item := range items {
			if err := s.Row(s.o.Now, item); err != nil {
				return err
			}
		}
		return nil
	}
	rows := make([][]string, len(items))
	for i, item := range items {
		rows[i] = s.cells(s.o.Now, item, false)
		for j, cell := range rows[i] {
			s.widths[j] = max(s.widths[j], utf8.RuneCountInString(cell))
		}
		s.last[s.t.Name(item)] = strings.Join(s.cells(s.o.Now, item, true), "\x00")
	}
	var b strings.Builder
	if !s.o.NoHeaders {
		header := make([]string, len(s.cols))
		for i, c := range s.cols {
			header[i] = c.Name
		}
		s.line(&b, header, nil)
	}
	for i, row := range rows {
		s.line(&b, row, &items[i])
	}
	_, err := io.WriteString(s.out, b.String())
	return err
}

// Row writes one item. A row that says nothing new about its name is left out of tables.
func (s *Stream[T]) Row(now time.Time, item T) error {
	switch {
	case s.o.Format.kind == "name":
		_, err := fmt.Fprintf(s.out, "%s/%s\n", s.t.Kind, s.t.Name(item))
		return err
	case s.o.Format.kind == "json":
		b, err := json.Marshal(item)
		if err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		_, err = s.out.Write(append(b, '\n'))
		return err
	case s.o.Format.kind == "yaml":
		if _, err := io.WriteString(s.out, "---\n"); err != nil {
			return err
		}
		return s.o.Format.encode(s.out, item)
	case !s.o.Format.Tabular():
		return s.o.Format.encode(s.out, item)
	}
	exact := strings.Join(s.cells(now, item, true), "\x00")
	name := s.t.Name(item)
	if s.last[name] == exact {
		return nil
	}
	s.last[name] = exact
	row := s.cells(now, item, false)
	for j, cell := range row {
		s.widths[j] = max(s.widths[j], utf8.RuneCountInString(cell))
	}
	var b strings.Builder
	s.line(&b, row, &item)
	_, err := io.WriteString(s.out, b.String())
	return err
}

// cells renders a row; exact shows times instead of ages, so that rows can be compared.
func (s *Stream[T]) cells(now time.Time, item T, exact bool) []string {
	out := make([]string, len(s.cols))
	for i, c := range s.cols {
		switch v := c.Value(item).(type) {
		case time.Time:
			if exact {
				out[i] = v.String()
			} else {
				out[i] = Age(now, v)
			}
		case Moment:
			out[i] = Exact(time.Time(v))
		case int:
			out[i] = strconv.Itoa(v)
		default:
			out[i] = fmt.Sprint(v)
		}
		if out[i] == "" {
			out[i] = "-"
		}
	}
	return out
}

// line pads and colours one row; the last cell is not padded. A nil item is the header.
func (s *Stream[T]) line(b *strings.Builder, row []string, item *T) {
	for i, cell := range row {
		shown := cell
		if item != nil && s.o.Colour {
			if _, ok := s.cols[i].Value(*item).(State); ok {
				shown = Colour(cell)
			}
		}
		b.WriteString(shown)
		if i < len(row)-1 {
			b.WriteString(strings.Repeat(" ", s.widths[i]-utf8.RuneCountInString(cell)+3))
		}
	}
	b.WriteByte('\n')
}

// colours of state words; those that are not here stay as they are.
var colours = map[string]string{
	"AVAILABLE": "32", "ACTIVE": "32", "ON": "32", "ready": "32", "allow": "32",
	"INITIALIZING": "36", "CHECKING": "33", "SUSPECT": "33", "DEGRADED": "33", "UNSUPPORTED": "33", "UNKNOWN": "33", "INACTIVE": "33", "warning": "33", "hold": "33",
	"RECOVERING": "35", "FENCING": "35", "draining": "33", "drained": "33", "restarting": "36", "absent": "31",
	"FENCED": "31", "FAILED": "31", "page": "31", "need-human": "31",
	"STORM": "31", "COOLDOWN": "33", "latched": "31", "used-up": "33", "free": "32",
}

// Colour wraps a state word in its colour for a terminal.
func Colour(word string) string {
	c, ok := colours[word]
	if !ok {
		return word
	}
	return "\x1b[" + c + "m" + word + "\x1b[0m"
}

// sort orders items by a column or a jsonpath; "" leaves them as they came.
func (t Table[T]) sort(by string, items []T) error {
	if by == "" {
		return nil
	}
	key, err := t.key(by)
	if err != nil {
		return err
	}
	keys := make(map[int]any, len(items))
	order := make([]int, len(items))
	for i, item := range items {
		if keys[i], err = key(item); err != nil {
			return fmt.Errorf("sort-by: %q: %w", by, err)
		}
		order[i] = i
	}
	sort.SliceStable(order, func(i, j int) bool { return less(keys[order[i]], keys[order[j]]) })
	sorted := make([]T, len(items))
	for i, n := range order {
		sorted[i] = items[n]
	}
	copy(items, sorted)
	return nil
}

func (t Table[T]) key(by string) (func(T) (any, error), error) {
	if strings.HasPrefix(by, ".") || strings.HasPrefix(by, "{") {
		p, err := parsePath(by)
		if err != nil {
			return nil, fmt.Errorf("sort-by: %q: %w", by, err)
		}
		return func(item T) (any, error) {
			b, err := evaluate(p, item)
			return string(b), err
		}, nil
	}
	var names []string
	for _, c := range t.Columns {
		if strings.EqualFold(c.Name, by) {
			return func(item T) (any, error) { return c.Value(item), nil }, nil
		}
		names = append(names, strings.ToLower(c.Name))
	}
	return nil, fmt.Errorf("sort-by: %q, allowed are %s, or a jsonpath such as .status.state", by, strings.Join(names, ", "))
}

// less compares two cells of one column: times and numbers by value, text so that h-2
// comes before h-10.
func less(a, b any) bool {
	switch x := a.(type) {
	case time.Time:
		return x.Before(b.(time.Time))
	case Moment:
		return time.Time(x).Before(time.Time(b.(Moment)))
	case int:
		return x < b.(int)
	}
	return natural(fmt.Sprint(a), fmt.Sprint(b))
}

func natural(a, b string) bool {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if len(x) != len(y) {
				return len(x) < len(y)
			}
			if x != y {
				return x < y
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return a[0] < b[0]
		}
		a, b = a[1:], b[1:]
	}
	return len(a) < len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
