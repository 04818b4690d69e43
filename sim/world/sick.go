// SPDX-License-Identifier: Apache-2.0

package world

import (
	"fmt"

	"github.com/holdfast-ha/holdfast/sim/bmc"
)

// SetBMCFaults replaces what is wrong with the BMC of the host, of which the breaks name
// two cases only. Repair undoes it.
func (h *Host) SetBMCFaults(f bmc.Faults) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.bmc.SetFaults(f); err != nil {
		return fmt.Errorf("sicken the BMC of %s: %w", h.Host, err)
	}
	return nil
}
