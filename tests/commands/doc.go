// SPDX-License-Identifier: Apache-2.0

// Package commands proves commands.md over the whole way: real workers and agents, real
// etcd, real files, a simulated hypervisor (sim/hypervisor). Every kind of command is
// interrupted at every step in every way; afterwards the records must say the truth, the
// instance run once, no file be left over, and nobody have anything left to do.
package commands
