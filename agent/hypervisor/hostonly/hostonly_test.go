// SPDX-License-Identifier: Apache-2.0

package hostonly_test

import (
	"testing"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/hostonly"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/hypervisortest"
)

func TestConformance(t *testing.T) {
	hypervisortest.Run(t, func(*testing.T) hypervisor.Hypervisor { return hostonly.Host{} })
}
