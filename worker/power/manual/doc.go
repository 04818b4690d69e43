// SPDX-License-Identifier: Apache-2.0

// Package manual is the power driver for the last level of a ladder: a human who goes
// and looks (power.md §8.7). Its proof is the operator's statement, A5.
//
// It never reads and never sends anything: every call answers Unsupported and says what
// to do. The statement itself does not come through a driver. It is made with
// "holdfast host confirm-off", is bound to one incident and its epoch, and ends that
// incident whichever level is being tried (ha.md §3): an answer that could be read
// again like a device's would be a statement used twice.
package manual
