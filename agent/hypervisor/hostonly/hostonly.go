// SPDX-License-Identifier: Apache-2.0

// Package hostonly is the hypervisor port of a host without a hypervisor: it has a boot
// id and no instances. It refuses to claim anything else, so that an agent built
// without libvirt protects nothing by accident.
package hostonly

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// bootIDFile is where Linux names the running boot.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// Host is the adapter. The zero value is ready.
type Host struct{}

var _ hypervisor.Hypervisor = Host{}

// Name is "none".
func (Host) Name() string { return "none" }

// BootID is the kernel's boot id.
func (Host) BootID(context.Context) (string, error) {
	b, err := os.ReadFile(bootIDFile)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if id == "" {
		return "", fmt.Errorf("read boot id: %s is empty", bootIDFile)
	}
	return id, nil
}

// Healthy is always nil: there is nothing that could fail to answer.
func (Host) Healthy(context.Context) error { return nil }

// Instances is always empty.
func (Host) Instances(context.Context) ([]hypervisor.Instance, error) { return nil, nil }
