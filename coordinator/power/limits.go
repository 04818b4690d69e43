// SPDX-License-Identifier: Apache-2.0

package power

import "time"

const (
	youngWindow   = 60 * time.Second // settle window while the BMC is young (power.md §6.2.6)
	levelMargin   = 45 * time.Second // a level lasts at least the settle window and this (ha.md §4)
	statusTries   = 2                // failed fresh readings before hard off is sent without one
	unreachFails  = 3                // Unreachable in a row before another path is tried, where there is one
	minReads      = 3                // no setting goes below these two: they are what A3 means
	minWindow     = 6 * time.Second
	busyFirst     = 2 * time.Second // power.md §7
	busyMax       = 10 * time.Second
	sessionsFirst = 10 * time.Second
	sessionsMax   = 70 * time.Second
)

// WithDefaults fills every field that is not positive with the figure of power.md §6.3
// and raises SettleReads and SettleWindow to what A3 means. OnNotBefore stays.
func (l Limits) WithDefaults() Limits {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&l.PacketTimeout, 2*time.Second)
	def(&l.StatusDeadline, 5*time.Second)
	def(&l.CommandDeadline, 15*time.Second)
	def(&l.VerifyInterval, 2*time.Second)
	def(&l.RepeatOffAfter, 8*time.Second)
	def(&l.OffToOn, 5*time.Second)
	def(&l.OnDeadline, 120*time.Second)
	def(&l.LevelDeadline, 60*time.Second)
	def(&l.TotalDeadline, 300*time.Second)
	if l.MaxOffs <= 0 {
		l.MaxOffs = 3
	}
	l.SettleReads = max(l.SettleReads, minReads)
	l.SettleWindow = max(l.SettleWindow, minWindow)
	return l
}

// levelTime is how long a level may take.
func (l Limits) levelTime() time.Duration {
	return max(l.LevelDeadline, l.SettleWindow+levelMargin)
}

// backoff is how long to wait after the n-th Busy or SessionLimit in a row.
func backoff(k Kind, n int) time.Duration {
	d, most := busyFirst, busyMax
	if k == SessionLimit {
		d, most = sessionsFirst, sessionsMax
	}
	for ; n > 1 && d < most; n-- {
		d *= 2
	}
	return min(d, most)
}
