// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// floorPrefix is where floors are written: nothing of Holdfast looks there.
const floorPrefix = "/floor/"

// times are durations of the same thing.
type times []time.Duration

// at is the q-quantile, by nearest rank; 0 without any.
func (t times) at(q float64) time.Duration {
	if len(t) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(t))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

func (t times) p50() time.Duration { return t.at(0.5) }
func (t times) max() time.Duration { return t.at(1) }

// floor is what a machine needs at least, as measured around one part of the run.
type floor struct{ puts, txns times }

func (f floor) P() time.Duration   { return f.puts.p50() }
func (f floor) X() time.Duration   { return f.txns.p50() }
func (f floor) sum() time.Duration { return f.P() + f.X() }
func (f floor) String() string     { return fmt.Sprintf("P %s, X %s", ms(f.P()), ms(f.X())) }

// floored takes the floor before and after something.
func (b *bench) floored(what func()) floor {
	f := b.takeFloor()
	what()
	g := b.takeFloor()
	f.puts, f.txns = append(f.puts, g.puts...), append(f.txns, g.txns...)
	b.report.floor.puts, b.report.floor.txns = append(b.report.floor.puts, f.puts...), append(b.report.floor.txns, f.txns...)
	return f
}

// takeFloor measures puts and transactions of 128 puts, one at a time; values are as
// large as those of slot keys.
func (b *bench) takeFloor() (f floor) {
	value := string(make([]byte, 150))
	f.puts = b.timed(b.n.Puts, func(ctx context.Context, i int) error {
		_, err := b.data.Put(ctx, fmt.Sprintf("%s%03d", floorPrefix, i%128), value)
		return err
	})
	f.txns = b.timed(b.n.Txns, func(ctx context.Context, i int) error {
		var puts []clientv3.Op
		for k := range 128 {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("%s%03d", floorPrefix, k), value))
		}
		_, err := b.data.Txn(ctx).Then(puts...).Commit()
		return err
	})
	return f
}

// timed does something n times, one after the other, and times each.
func (b *bench) timed(n int, do func(ctx context.Context, i int) error) (out times) {
	b.t.Helper()
	for i := range n {
		ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
		began := time.Now()
		err := do(ctx, i)
		took := time.Since(began)
		cancel()
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(out, took)
	}
	return out
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%.3g ms", float64(d.Microseconds())/1000)
}
