// SPDX-License-Identifier: Apache-2.0

// Package metal is many simulated hosts with nothing but their management: for each a
// BMC on RMCP+ ([bmc.Block]), for some a Redfish service beside it and two feeds of PDUs
// above it, all over the one chassis of the host (power.md §5). It is what
// `holdfast sim bmc` runs, to test any fencing tool with.
//
// It refuses to be a world: no operating system, agents or guests live on these hosts
// (that is sim/world).
//
// Host n, from 1, answers at the n-th address of the network, BMC and Redfish alike. PDUs
// come in pairs, the first of which is feed A and the second feed B: outlet i of pair k
// feeds host k*24+i. A host both of whose outlets are off is dark, and its BMC and
// Redfish service with it; with a feed again it is as it was before.
//
// Invariants:
//   - identities, random faults, and which hosts a share of the fleet means follow from
//     Config.Seed;
//   - every command that could change a chassis or an outlet is in the truth log, and
//     every loss and return of mains;
//   - faults of hosts are set while the fleet runs and never touch the truth;
//   - nothing runs once [Fleet.Run] has returned.
package metal
