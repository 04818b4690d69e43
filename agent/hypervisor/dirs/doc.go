// SPDX-License-Identifier: Apache-2.0

// Package dirs is pools that are directories, local ones and mounted ones: the part of
// hypervisor.Storage and of hypervisor.Copier that is the same for every adapter. It
// looks, lists, makes, renames and removes volumes; who uses a volume it learns from
// the adapter (what runs) and from the kernel (which process has it open).
//
// It refuses to copy, to follow symbolic links, to leave a pool, and to say absent when
// the pool did not answer: a directory that should be a mount point and is none, and an
// error of any kind, make a look end as could-not-look (pitfalls.md R1).
//
// Calls go to the file system, which may hang for ever. They look at ctx before they
// begin; whoever calls gives up on them by himself (package hypervisor).
package dirs
