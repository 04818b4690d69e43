// SPDX-License-Identifier: Apache-2.0

package world

import (
	"syscall"
	"time"
)

// Power implements bmc.Chassis.
func (h *Host) Power() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on
}

// SetPower implements bmc.Chassis: off ends everything at once, on boots.
func (h *Host) SetPower(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.lit:
	case !on:
		h.halt(SystemOff)
		h.on = false
	case !h.on:
		h.powerOn()
	}
}

// Cycle implements bmc.Chassis.
func (h *Host) Cycle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.on {
		return
	}
	h.halt(SystemOff)
	h.on = false
	h.planned(offTime, h.powerOn)
}

// Reset implements bmc.Chassis.
func (h *Host) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on {
		h.halt(SystemOff)
		h.bootIn(h.cfg.BootDelay)
	}
}

// SoftOff implements bmc.Chassis: an operating system that does not run does not obey.
func (h *Host) SoftOff() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.system != SystemRuns {
		return
	}
	h.system = SystemStops
	for _, p := range []*Proc{h.agent, h.guest} {
		if p != nil {
			h.note(p.Signal(syscall.SIGTERM))
		}
	}
	h.planned(stopTime, func() {
		h.halt(SystemOff)
		h.on = false
	})
}

// Identify implements bmc.Chassis: nobody is there to see the lamp.
func (h *Host) Identify(int, bool) {}

// powerOn gives power to a host that has mains and none. Callers hold mu.
func (h *Host) powerOn() {
	h.on = true
	h.bootIn(h.cfg.BootDelay)
}

// rebootTime is how long a kernel that panicked takes to come back.
const rebootTime = time.Second
