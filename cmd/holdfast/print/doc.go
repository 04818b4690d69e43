// SPDX-License-Identifier: Apache-2.0

// Package print writes lists and single things as a table, wide, json, yaml, name or
// jsonpath. It knows columns, not hosts.
//
// Refuses: to shorten or wrap what a column holds, to colour anything but state words,
// to write talk to stdout.
//
// Invariants: json and yaml are the API's own types, the same on a terminal and in a
// pipe; a list is {"items": […]}; a watch in json is one object per line; columns may
// change, json may not (libraries.md §5).
package print
