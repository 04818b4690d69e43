// SPDX-License-Identifier: Apache-2.0

// Package pki makes the certificates of a lab: one authority in a directory, and what it
// signs for workers, hosts, operators and etcd (agents.md "Trust", libraries.md §4.7). A
// fleet that has cert-manager, Vault or another authority needs nothing of it; which
// identity a certificate carries is package agent/trust's to say. It also signs for a
// fleet that has an authority of its own (authority.go), which stands for hosts alone.
//
// It refuses to overwrite a file unless it is told to, to sign beyond the authority's own
// end, and to write a key that others may read.
//
// Invariants: ECDSA P-256; the authority signs no other authorities; a certificate has
// one identity, its id as common name, and only the usages of its role; times begin five
// minutes early for clocks that are a little behind; a file is there whole or not at all.
package pki
