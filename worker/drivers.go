// SPDX-License-Identifier: Apache-2.0

package worker

import (
	wpower "github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/execdriver"
	"github.com/holdfast-ha/holdfast/worker/power/fenceagent"
	"github.com/holdfast-ha/holdfast/worker/power/manual"
	"github.com/holdfast-ha/holdfast/worker/power/pdu"
	"github.com/holdfast-ha/holdfast/worker/power/virsh"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// maxChildren bounds the child processes of power drivers: a fence agent costs a tenth
// of a second of CPU (power.md §4).
const maxChildren = 16

// childDrivers are the power drivers that run child processes, and the one that has a
// human do it.
func childDrivers() []wpower.Driver {
	children := proc.NewRunner(maxChildren)
	agents := fenceagent.New(children, fenceagent.Options{})
	return []wpower.Driver{agents, pdu.New(agents), execdriver.New(children), execdriver.NewProvider(children), virsh.New(children, ""), manual.Driver{}}
}
