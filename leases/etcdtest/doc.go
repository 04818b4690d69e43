// SPDX-License-Identifier: Apache-2.0

// Package etcdtest gives tests a real etcd, embedded and on loopback, and a TCP proxy
// that cuts, silences and delays what goes to it.
//
// The server runs without fsync and with a short election, so that a lease of one second
// is granted as one second (it ends 0 to 0.5 s late, as any etcd lease). A Cluster has
// several members that can be stopped, replaced, slowed down, filled up and restored from a
// snapshot. Neither is for production, nor for chaos runs, which start real members as
// processes.
//
// Everything made here ends with the test, in reverse order: clients before their server.
package etcdtest
