// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
)

// A certificate is renewed at two thirds of its life and not before, whatever that is; until
// then it is looked once a minute.
func TestRenewalIsDueAtTwoThirds(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		life, age time.Duration
		jitter    float64
		want      time.Duration
	}{
		{24 * time.Hour, 0, 0, time.Minute},
		{24 * time.Hour, 15*time.Hour + 59*time.Minute + 50*time.Second, 0, 10 * time.Second},
		{24 * time.Hour, 15*time.Hour + 59*time.Minute + 50*time.Second, 0.5, 40 * time.Second},
		{24 * time.Hour, 16*time.Hour - 1, 0, 1},
		{24 * time.Hour, 16 * time.Hour, 0.9, 0},
		{24 * time.Hour, 23 * time.Hour, 0, 0},
		{24 * time.Hour, 30 * time.Hour, 0, 0}, // over: the join decides, this does not wait
		{90 * time.Second, 30 * time.Second, 0, 30 * time.Second},
		{90 * time.Second, time.Minute, 0.9, 0},
	} {
		state := trust.State{NotBefore: begin, NotAfter: begin.Add(c.life)}
		if got := untilRenewal(state, begin.Add(c.age), c.jitter); got != c.want {
			t.Errorf("life %v, age %v, jitter %v: %v, want %v", c.life, c.age, c.jitter, got, c.want)
		}
	}
}
