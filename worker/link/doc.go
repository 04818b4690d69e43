// SPDX-License-Identifier: Apache-2.0

// Package link is the door agents knock at: one stream of frames per host, dialled by the
// agent (agents.md "Link"). The same port speaks gRPC to other workers and to hosts that
// enrol (door.go).
//
// It keeps sessions, hands every frame to its Handler and carries requests to agents.
// It refuses to decide: who owns a host, what a missed ping means and what a report
// says of a host's health is the owner's business.
//
// Invariants: one session per host, the newest wins and the older is told why; a frame
// is only ever attributed to the host that said Hello on its stream, and only a host's own
// certificate may say it (secure.go); what one agent costs is bounded, and one that goes
// beyond is cut and named (limits.go); who has no certificate reaches the enrolment alone
// (enroll.go); no send blocks longer than its deadline; a broken stream by itself says
// nothing about the host.
package link
