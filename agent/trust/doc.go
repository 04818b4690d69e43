// SPDX-License-Identifier: Apache-2.0

// Package trust holds the terms of the wire: whose certificate stands for whom, which
// files it comes from, and when the other side is refused (agents.md "Trust"). Worker,
// agent and CLI share it, so that all of them mean the same.
//
// An identity is one URI in a certificate: holdfast://worker/w1, holdfast://host/h-17,
// holdfast://operator/ann; the common name, where there is one, repeats the id. Whoever
// issues the certificates decides who gets which: cert-manager, Vault, `holdfast pki`.
//
// It refuses to make certificates, to know what an identity may do beyond its role, and
// to speak anything older than TLS 1.3.
//
// Invariants:
//   - both sides show a certificate; the chain, the time, the usage and the role are
//     checked on every handshake against the files as they are then;
//   - new files are taken within a second of the next handshake, links that are up stay;
//   - new files that cannot be used change nothing: the old ones stay, and State says why;
//   - a certificate that is out of date stops nothing from starting (a host may boot with
//     a wrong clock or after a month in a drawer): it is refused by the others, in words,
//     until it is renewed;
//   - a key that everybody may read is refused.
package trust
