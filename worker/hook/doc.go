// SPDX-License-Identifier: Apache-2.0

// Package hook delivers the event log to receivers outside: webhooks (CloudEvents 1.0 in
// JSON, signed) and programs. docs/hooks.md is for those who write receivers.
//
// A Runner takes one hook through the log: in the order of the log, one event at a time,
// each until the receiver has taken it. Where it is, its Cursor, is kept in a Store, not
// at every event but at most every few seconds: at least once, and twice only what was
// delivered since the cursor was written last. Whoever calls Run must be the only one
// for that hook; a Store that refuses (fenced) ends Run.
//
// It refuses to lose an event silently: what the log had dropped before it was delivered
// is told to the receiver as a gap. It never logs, shows or puts into an error the URL or
// the key of a webhook. It knows nothing of etcd and of who owns a hook; worker does.
package hook
