// SPDX-License-Identifier: Apache-2.0

// Package virsh is the power driver "libvirt": a virtual machine as a host, through the
// program virsh, so that the worker stays free of C (power.md §8.5). For nested fleets
// and tests.
//
// Off is "destroy", on is "start". Only "shut off" and "crashed" are OFF: a paused,
// suspended or blocked machine comes back with all its memory, and a machine that the
// hypervisor does not know any more may run somewhere else.
//
// It refuses connections that name programs of their own (ext, command, netcat), that
// carry a password, and those on which nobody proves who answers (tcp, no_verify)
// unless the target says trusted=true: the administrator vouches for the path.
//
// The identity is the domain's UUID. Its log-in is the connection's business
// (certificate, ssh key, socket), so it takes no secret. What it proves is not more than
// what is known of the outer host.
package virsh
