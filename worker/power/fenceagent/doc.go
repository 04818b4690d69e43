// SPDX-License-Identifier: Apache-2.0

// Package fenceagent is the power driver for the ClusterLabs fence agents: any of them,
// for devices that no driver of our own speaks to (power.md §8.3).
//
// Options go to the agent's standard input; which there are is read from its metadata.
// An agent knows one answer to "status" and says of "off" only that it was done or that
// the host was off before ("already there": then it sent nothing). Both are followed by
// our own readings through the same agent.
//
// It refuses
//   - agents that cut storage or network instead of power, or that only pretend;
//   - options that name programs, scripts or files, unless an administrator allowed them:
//     passwd_script runs a shell command in most agents;
//   - secrets anywhere but in the target's secret, and control characters in values: a
//     line break would be a second option;
//   - to believe an exit code alone: 2 means off, but also that the interpreter did not
//     find its script. The words must be there too.
//
// Readings are not Authentic unless the target says trusted=true: the administrator
// vouches for the path to the device. Agents that call ipmitool cannot be trusted: it
// takes a forged plaintext answer for a genuine one. For IPMI there is driver ipmi.
//
// The identity is a fingerprint of agent, address and outlet, and of the outlet's label
// where the device lists labels: it finds a changed entry or a relabelled outlet, not a
// swapped cable behind an unchanged label.
package fenceagent
