// SPDX-License-Identifier: Apache-2.0

// Package apitest is a backend of the operator API in memory, for tests of the server,
// of its client and of the command line tool.
//
// Refuses: to decide anything. States change only when a test or a write says so.
//
// Invariants: a fresh Fleet is always the same, down to times and revisions; every
// write is noted in Calls with who asked.
package apitest
