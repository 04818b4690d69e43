// SPDX-License-Identifier: Apache-2.0

// Package lab is several hypervisor hosts on one machine: namespaces, each with a
// libvirtd of its own, a pool of its own, a mount of one shared pool with faults that
// can be set, and a BMC whose power really cuts. Guests are emulated (TCG), boot
// Debian's kernel, and write numbered records (sim/sequence) to their disk.
// docs/lab.md tells how to use it.
//
// Power off takes the cable first, so that the dead host is silent rather than full of
// resets, then kills all its processes at once, then aborts its mount, which frees what
// hangs in it.
//
// It needs root and the packages that `make lab` installs, refuses to run twice on a
// machine, ends only processes it started, and Clean removes whatever an earlier lab
// left, however that ended. Every command and every wait has a deadline.
package lab
