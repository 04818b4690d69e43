// SPDX-License-Identifier: Apache-2.0

// Package hypervisor is the simulated hypervisor of a simulated host. Host is one boot
// with a fixed list of instances, the adapter of agents that run no commands. Engine is
// the hypervisor itself: a process of its own beside the agent's (or a goroutine of a
// test) that runs instances, which write numbered records (sim/sequence) to real files
// in pools that are directories, and that carries their jobs. Remote is the agent's
// adapter for it: it talks to the engine over a unix socket and copies volumes itself.
// So a job survives the agent, a copy does not, and the end of the engine's process is
// the host's power cut.
//
// One value of each is one boot; definitions outlive it in the engine's directory. What
// the rejoin gate refuses is kept in a file that engine and agent read.
//
// Faults are set in a file that both read before each access to a pool.
//
// It refuses to start anything by itself. Like libvirt without a lock manager it starts
// an instance on two hosts if told so, and goes on at the source of a migration whose
// target does not answer.
package hypervisor
