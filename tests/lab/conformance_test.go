// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"testing"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/hypervisortest"
	"github.com/holdfast-ha/holdfast/sim/sequence"
)

// The adapter for libvirt keeps what the port promises, on real QEMU.
func TestConformance(t *testing.T) {
	a, b := hosts(t)
	hypervisortest.Run(t, func(*testing.T) hypervisor.Hypervisor { return a })
	hypervisortest.RunCommands(t, hypervisortest.Rig{
		A: a, B: b, ToB: b.node.Peer(), Shared: "shared", LocalPool: "local", DiskSize: diskSize, GuestSize: sequence.Size,
		Define: define, Check: check, Slow: 4 << 20, Limit: limit,
	})
	for _, h := range []host{a, b} {
		for _, pool := range []string{"local", "shared"} {
			if left, err := h.Volumes(t.Context(), pool); err != nil || len(left) > 0 {
				t.Errorf("pool %s of %s is left with %v, %v", pool, h.node.Name, left, err)
			}
		}
	}
}
