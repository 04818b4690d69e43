// SPDX-License-Identifier: Apache-2.0

// Package libvirt is the hypervisor port on libvirt and QEMU. The adapter itself, Host,
// exists only in builds with cgo and the tag libvirt_dlopen: such a binary loads
// libvirt.so.0 when it first calls it. Without the tag the package holds what needs no
// libvirt (definitions as XML, qemu-img).
//
// Every call runs on a connection and in a goroutine of its own, with a deadline, and
// nobody waits for one that is stuck: with two calls on one connection, libvirt frees
// only one of them when the other end is gone. When too many wait, further ones are
// refused: each holds a thread.
//
// Volumes are files of directory pools (package dirs). They are copied by qemu-img, a
// child that dies with this process; migrations and block copies are libvirt's and
// outlive it. Disks stop their instance on an error (error_policy) and bypass the page
// cache, so that a migration is safe.
//
// It refuses to use libvirt's storage pools, to start anything by itself, and to
// replace a definition of a running instance.
package libvirt
