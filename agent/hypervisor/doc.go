// SPDX-License-Identifier: Apache-2.0

// Package hypervisor is the agent's port to what runs the instances of its host
// (architecture.md §4.3). It says which boot of the host this is, whether the
// hypervisor answers, and which instances write to which disks.
//
// What commands need (commands.md) are small interfaces beside Hypervisor, found by type
// assertion: Storage, Copier, Instances, Migrator, BlockCopier. Looks are three-valued:
// absent and could-not-look are different answers.
//
// It refuses to decide anything: an adapter reports and obeys, the worker judges. It
// chooses no name either: whoever calls has written down every file it may leave.
// Adapters live in sub-packages named after what they adapt (hostonly, libvirt) and pass
// hypervisortest.Run.
//
// Calls may hang: the agent makes each one in a goroutine of its own, with a deadline,
// and never a second of the same kind while one has not come back. Adapters are safe
// for concurrent use and return soon after their context ends when they can.
package hypervisor
