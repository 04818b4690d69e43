// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-ha/holdfast/leases"
)

// together is how many keys one fenced transaction carries in the second measurement.
const together = 16

// fence measures leases.md §8: "fenced write against plain put", through the session that
// workers use, before there are any workers. Plain and fenced writes take turns.
func (b *bench) fence() {
	ctx, cancel := context.WithTimeout(b.t.Context(), startTime)
	defer cancel()
	client, err := leases.Dial(ctx, leases.Config{Endpoints: b.endpoints})
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	s, err := client.OpenSession(ctx, leases.SessionConfig{Worker: "bench", Boot: uuid.NewString(), TTL: time.Minute, Record: struct{}{}})
	if err != nil {
		b.t.Fatal(err)
	}
	stop := b.background(s.Run)
	defer stop()
	claims, err := s.Claim(ctx, []int{0})
	if err != nil {
		b.t.Fatal(err)
	}
	value := make([]byte, 300)
	for i := range value {
		value[i] = 'x'
	}
	var revs [together]int64
	keys := [together]string{}
	for i := range keys {
		keys[i] = leases.HostHAKey(fmt.Sprintf("bench-%02d", i))
	}
	var plain, fenced, batch times
	b.floored(func() {
		for range b.n.Fenced {
			plain = append(plain, b.timed(1, func(ctx context.Context, _ int) error {
				_, err := b.data.Put(ctx, floorPrefix+"plain", string(value))
				return err
			})...)
			fenced = append(fenced, b.timed(1, func(ctx context.Context, _ int) (err error) {
				revs[0], err = s.Commit(ctx, claims[0].Guard().At(keys[0], revs[0]), leases.Put(keys[0], value))
				return err
			})...)
		}
		for range max(1, b.n.Fenced/together) {
			plain = append(plain, b.timed(1, func(ctx context.Context, _ int) error {
				_, err := b.data.Put(ctx, floorPrefix+"plain", string(value))
				return err
			})...)
			batch = append(batch, b.timed(1, func(ctx context.Context, _ int) error {
				g, ops := claims[0].Guard(), []leases.Op{}
				for i, key := range keys {
					g, ops = g.At(key, revs[i]), append(ops, leases.Put(key, value))
				}
				rev, err := s.Commit(ctx, g, ops...)
				for i := range revs {
					revs[i] = rev
				}
				return err
			})...)
		}
	})
	one, many := over(fenced.p50(), plain.p50()), over(batch.p50(), plain.p50())/together
	b.report.add(row{
		What: "fenced write against a plain put, p50", Target: "≤ 1.15 ×", Measured: fmt.Sprintf("%s = %.2f × %s", ms(fenced.p50()), one, ms(plain.p50())), Value: one, Limit: 1.15,
		Parts: []string{fmt.Sprintf("p99: fenced %s, plain %s (%d of each in turn, 300 bytes, epoch and own revision compared)", ms(fenced.at(0.99)), ms(plain.at(0.99)), len(fenced))},
	})
	b.report.add(row{
		What: fmt.Sprintf("%d fenced writes in one transaction, per key, p50", together), Target: "≤ 0.25 ×", Measured: fmt.Sprintf("%s a key = %.2f ×", ms(batch.p50()/together), many), Value: many, Limit: 0.25,
	})
	for _, key := range keys { // nobody is to take them for hosts
		if _, err := b.data.Delete(ctx, key); err != nil {
			b.t.Fatal(err)
		}
	}
}
