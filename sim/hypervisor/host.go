// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// Host is one boot of a simulated host.
type Host struct {
	Boot    string                // names this boot
	All     []hypervisor.Instance // instances started by this boot
	Refused Refused
}

var (
	_ hypervisor.Hypervisor = Host{}
	_ hypervisor.Gatekeeper = Host{}
)

// Name is "kvm": the engine treats simulated hosts as it treats real ones.
func (Host) Name() string { return "kvm" }

// BootID is the boot's name.
func (h Host) BootID(context.Context) (string, error) { return h.Boot, nil }

// Healthy is always nil.
func (Host) Healthy(context.Context) error { return nil }

// Instances are those of this boot that were not refused.
func (h Host) Instances(context.Context) ([]hypervisor.Instance, error) {
	return h.Refused.Filter(h.All)
}

// Refuse keeps instances from running for the rest of this boot.
func (h Host) Refuse(_ context.Context, ids []string) error { return h.Refused.Add(ids) }

// Refused is the file that lists refused instances, one a line. No file: none.
type Refused string

// Filter returns the instances that are not refused.
func (r Refused) Filter(all []hypervisor.Instance) ([]hypervisor.Instance, error) {
	ids, err := r.read()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(i hypervisor.Instance) bool { return slices.Contains(ids, i.ID) }), nil
}

// Add refuses more instances; the file is replaced as a whole.
func (r Refused) Add(ids []string) error {
	have, err := r.read()
	if err != nil {
		return err
	}
	all := slices.Compact(slices.Sorted(slices.Values(append(have, ids...))))
	if len(all) == len(have) {
		return nil
	}
	if err := replace(string(r), []byte(strings.Join(all, "\n")+"\n")); err != nil {
		return fmt.Errorf("refuse instances: %w", err)
	}
	return nil
}

func (r Refused) read() ([]string, error) {
	text, err := os.ReadFile(string(r))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read refused instances: %w", err)
	}
	return strings.Fields(string(text)), nil
}
