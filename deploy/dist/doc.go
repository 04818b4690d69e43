// SPDX-License-Identifier: Apache-2.0

// Command dist writes what is released into dist/: deb and rpm of worker, agent and CLI (by
// nfpm), the files of the images as tar, an SBOM in CycloneDX made of what the linker noted
// in the binaries, and their checksums. It is `make dist`; it runs from the top of the
// repository, for the architecture in GOARCH.
//
// The agent is built here, with libvirt, which it loads at run time: of the three it alone
// needs glibc, and its package says which.
//
// It refuses to guess: the other binaries must be static, and everything that a package holds is
// listed in packages.go.
package main
