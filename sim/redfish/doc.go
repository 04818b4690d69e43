// SPDX-License-Identifier: Apache-2.0

// Package redfish is a simulated Redfish service on HTTPS: the second face of a
// management controller, over the same [bmc.Chassis] as the IPMI one. Service root,
// log-in by session or basic authentication, Systems with ComputerSystem.Reset,
// Managers, tasks, and faults that can be set while it runs (power.md §§5, 6.1, 11).
// gofish, python3-sushy and fence_redfish talk to it unchanged.
//
// It refuses to share code with a Redfish client, so that a client is tested against
// something its author did not write; to know what a host is: the world behind each
// system is its chassis; and to be more of Redfish than power needs.
//
// To give one host both faces, put the same Chassis into a bmc.Config and a [System]
// here, and the same function into both OnCommand: one chassis, one truth log.
//
// Invariants:
//   - every command that could change a chassis is in the truth log, executed or not,
//     in the order of execution, whatever became of its answer;
//   - faults touch what a client is told and what a command does, never the log;
//   - the certificate, tokens and random faults follow from Config.Seed and the order
//     of requests;
//   - nothing runs once [Server.Run] has returned.
package redfish
