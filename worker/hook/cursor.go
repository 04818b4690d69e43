// SPDX-License-Identifier: Apache-2.0

package hook

import "time"

// Cursor is how far a hook is, and how it goes. It is the value of cursors/<hook> in etcd.
type Cursor struct {
	V            int       `json:"v"`
	At           Position  `json:"at"`                    // delivered, or passed over, up to here
	Delivered    time.Time `json:"delivered,omitzero"`    // last success
	Failures     int       `json:"failures,omitempty"`    // attempts in a row
	FailingSince time.Time `json:"failingSince,omitzero"` // first of them
	LastError    string    `json:"lastError,omitempty"`
	Disabled     time.Time `json:"disabled,omitzero"` // it was switched off by itself
	Gaps         int       `json:"gaps,omitempty"`
	Gap          time.Time `json:"gap,omitzero"` // last of them
}

// Enabled takes an operator's word, given at a time, that the hook is to deliver: what
// went wrong before counts no more.
func (c Cursor) Enabled(at time.Time) Cursor {
	if c.Disabled.IsZero() || at.Before(c.Disabled) {
		return c
	}
	c.Disabled, c.FailingSince, c.Failures, c.LastError = time.Time{}, time.Time{}, 0, ""
	return c
}

func (c Cursor) ok(now time.Time) Cursor {
	c.Delivered, c.FailingSince, c.Failures, c.LastError = now, time.Time{}, 0, ""
	return c
}

// failed counts a failed attempt; it may switch the hook off.
func (c Cursor) failed(now time.Time, conf Config, why error, gone bool) Cursor {
	if c.FailingSince.IsZero() {
		c.FailingSince = now
	}
	c.Failures++
	c.LastError = why.Error()
	if n := 500; len(c.LastError) > n {
		c.LastError = c.LastError[:n] + "…"
	}
	if gone || c.Failures >= conf.Failures && now.Sub(c.FailingSince) >= conf.After {
		c.Disabled = now
	}
	return c
}
