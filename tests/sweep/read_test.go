// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"testing"

	"github.com/holdfast-ha/holdfast/worker/power"
)

// BenchmarkRead: one status read after another, a session each; the processor time of this
// process is what counts (power.md §4).
func BenchmarkRead(b *testing.B) {
	c := startFleet(b, 100)
	w := newWorker(b, c, power.Limits{})
	b.ReportAllocs()
	b.ResetTimer()
	began := cpu(b)
	for i := range b.N {
		if r := w.read(b.Context(), i%len(w.targets)); r.err != nil {
			b.Fatal(r.err)
		}
	}
	b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(b.N), "cpu-µs/op")
}
