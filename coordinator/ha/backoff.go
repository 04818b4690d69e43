// SPDX-License-Identifier: Apache-2.0

package ha

import "time"

// A host that returned twice within flapWindow must pass for flapPasses before its
// third return (ha.md §3).
const (
	flapWindow  = 10 * time.Minute
	flapReturns = 2
	flapPasses  = 5 * time.Minute
)

// double is the decay of the mail: 10, 20, 40 … up to the maximum.
func double(d time.Duration, p Policy) time.Duration {
	return min(max(2*d, p.CheckInitial), max(p.CheckMax, p.CheckInitial))
}

// silence is how long a living host is never silent.
func (p Policy) silence() time.Duration { return time.Duration(p.HealthFailures) * p.PingInterval }

// confirmDelay and confirmSilence are never shorter than a living host may be silent:
// before that the silence of a host says nothing (preset seed pings once a minute).
func (p Policy) confirmDelay() time.Duration   { return max(p.OffConfirmDelay, p.silence()) }
func (p Policy) confirmSilence() time.Duration { return max(p.ConfirmSilence, p.silence()) }

// clamp keeps a persisted deadline within [0, length] from now: the clock of the last
// owner may have been wrong.
func clamp(t, now time.Time, length time.Duration) time.Time {
	if latest := now.Add(length); t.After(latest) {
		return latest
	}
	return t
}

// recentReturns are the returns that still count for flapping.
func recentReturns(all []time.Time, now time.Time) []time.Time {
	var out []time.Time
	for _, t := range all {
		if now.Sub(t) < flapWindow {
			out = append(out, t)
		}
	}
	return out
}
