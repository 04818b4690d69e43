// SPDX-License-Identifier: Apache-2.0

package hypervisor_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/hypervisortest"
	simhv "github.com/holdfast-ha/holdfast/sim/hypervisor"
)

func open(t *testing.T) hypervisor.Hypervisor {
	return simhv.Host{
		Boot: "boot-1", Refused: simhv.Refused(filepath.Join(t.TempDir(), "refused")),
		All: []hypervisor.Instance{
			{ID: "vm1", Disks: []hypervisor.Disk{{Pool: "p", Path: "instances/vm1.img"}}},
			{ID: "vm2", Disks: []hypervisor.Disk{{Pool: "p", Path: "instances/vm2.img"}}},
		},
	}
}

func TestConformance(t *testing.T) { hypervisortest.Run(t, open) }

// ha.md §7: what the gate names must not run; everything else may.
func TestOnlyTheRefusedStop(t *testing.T) {
	h := open(t)
	if err := h.(hypervisor.Gatekeeper).Refuse(t.Context(), []string{"vm1", "elsewhere"}); err != nil {
		t.Fatal(err)
	}
	all, err := h.Instances(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []hypervisor.Instance{{ID: "vm2", Disks: []hypervisor.Disk{{Pool: "p", Path: "instances/vm2.img"}}}}
	if d := cmp.Diff(want, all); d != "" {
		t.Error(d)
	}
}
