// SPDX-License-Identifier: Apache-2.0

// Command holdfast is the operators' tool. It asks and tells the workers' API through
// worker/api/v1 and nothing else; only `holdfast dev` and `holdfast demo` start
// processes of their own.
//
// Refuses: to decide anything about a host, to read etcd, to carry out a dangerous verb
// without the host's name typed on a terminal or --yes.
//
// Invariants: stdout is data, stderr is talk; json and yaml never change shape with the
// terminal; exit codes are those of exit.go and of no other file; no package-level
// state, so that tests run the tool in-process.
package main
