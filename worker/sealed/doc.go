// SPDX-License-Identifier: Apache-2.0

// Package sealed keeps secrets at rest: AES-256-GCM under a ring of keys that lives in a
// file, never in etcd (power.md §9.3). The first key of the ring seals, all of them open;
// the key under which a text was sealed is named in it:
//
//	holdfast:enc:aesgcm:v1:<key id>:<base64 of nonce and ciphertext>
//
// It refuses to know what it seals, to talk to etcd, and to hand out a key.
//
// Invariants:
//   - The place where a text is kept (its etcd key) is authenticated with it: a text that
//     was copied to another place does not open.
//   - Parse accepts exactly what String writes; everything else is an error.
//   - No error and no way of printing a value contains a key or a plaintext.
//   - A ring file that cannot be used changes nothing: the ring read before stays.
package sealed
