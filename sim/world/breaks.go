// SPDX-License-Identifier: Apache-2.0

package world

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
)

// How names a way to break a host.
type How string

const (
	Crash       How = "crash"
	Hang        How = "hang"
	AgentKilled How = "agent-killed"
	LinkLost    How = "link-lost"
	StorageLost How = "storage-lost"
	Reboot      How = "reboot"
	PowerOff    How = "power-off"
	MainsLost   How = "mains-lost"
	BMCDead     How = "bmc-dead"
	BMCLies     How = "bmc-lies"
)

type aBreak struct {
	how  How
	text string
	live bool              // only something that runs can be broken so
	do   func(*Host) error // callers hold mu
}

var breaks = []aBreak{
	{Crash, "host dead, chassis ON", true, func(h *Host) error { h.halt(SystemCrashed); return nil }},
	{Hang, "every process of the host stopped", true, (*Host).hang},
	{AgentKilled, "agent dead, instances go on writing", true, (*Host).killAgent},
	{LinkLost, "agent cannot reach any worker, stamps go on", false, (*Host).cutLink},
	{StorageLost, "this host's pool hangs, link fine", false, func(h *Host) error { return h.fault.Set(true) }},
	{Reboot, "kernel panic, comes back by itself", true, func(h *Host) error {
		h.halt(SystemBoots)
		h.bootIn(rebootTime)
		return nil
	}},
	{PowerOff, "somebody pulls it down by hand", false, func(h *Host) error {
		h.halt(SystemOff)
		h.on = false
		return nil
	}},
	{MainsLost, "host and BMC dead", false, func(h *Host) error {
		h.mains = false
		h.power()
		return nil
	}},
	{BMCDead, "only the BMC is dead", false, func(h *Host) error { return h.deafen(true, false) }},
	{BMCLies, "host crashed and its BMC accepts every command, does nothing", true, func(h *Host) error {
		h.halt(SystemCrashed)
		return h.deafen(false, true)
	}},
}

// Hows lists all ways to break a host, each with what happens, in the order of the docs.
func Hows() (hows []How, texts []string) {
	for _, b := range breaks {
		hows, texts = append(hows, b.how), append(texts, b.text)
	}
	return hows, texts
}

// ErrNotThere is wrapped by errors about a host that does not exist.
var ErrNotThere = errors.New("no such host")

// ErrNotNow is wrapped by errors about a host in which there is nothing left to break.
var ErrNotNow = errors.New("not possible now")

// ErrBadOrder is wrapped by errors about an order that makes no sense.
var ErrBadOrder = errors.New("not a thing to do")

// Break breaks the host. Breaking it twice the same way changes nothing.
func (h *Host) Break(how How) error {
	i := slices.IndexFunc(breaks, func(b aBreak) bool { return b.how == how })
	if i < 0 {
		hows, _ := Hows()
		return fmt.Errorf("how: %q: %w, allowed are %s", how, ErrBadOrder, join(hows))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if breaks[i].live && h.system != SystemRuns {
		return fmt.Errorf("break %s: its system %s, %s needs one that runs: %w", h.Host, h.system, how, ErrNotNow)
	}
	if err := breaks[i].do(h); err != nil {
		return fmt.Errorf("break %s: %w", h.Host, err)
	}
	return nil
}

func (h *Host) hang() error {
	h.cable.Set(Dark)
	h.system = SystemHangs
	return h.signalAll(syscall.SIGSTOP)
}

func (h *Host) killAgent() error {
	h.agentDown = true
	if h.agent == nil {
		return nil
	}
	err := h.agent.Signal(syscall.SIGKILL)
	h.agent = nil
	return err
}

func (h *Host) cutLink() error {
	h.linkCut = true
	if h.system == SystemRuns {
		h.carry()
	}
	return nil
}

func (h *Host) signalAll(sig syscall.Signal) error {
	var errs []error
	for _, p := range []*Proc{h.agent, h.guest} {
		if p != nil {
			errs = append(errs, p.Signal(sig))
		}
	}
	return errors.Join(errs...)
}

// Repair undoes every break: mains, BMC, storage, link and agent are back, a stopped
// host goes on, and one that is dead or off is booted.
func (h *Host) Repair() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mains, h.linkCut, h.agentDown = true, false, false
	err := errors.Join(h.deafen(false, false), h.fault.Set(false))
	h.power()
	switch {
	case !h.lit: // its outlets are off, which is no break
	case !h.on:
		h.powerOn()
	case h.system == SystemCrashed:
		h.bootIn(h.cfg.BootDelay)
	case h.system == SystemHangs:
		err = errors.Join(err, h.signalAll(syscall.SIGCONT))
		h.system = SystemRuns
		h.carry()
	case h.system == SystemRuns:
		h.carry()
		if h.agent == nil {
			h.startAgent()
		}
	}
	if err != nil {
		return fmt.Errorf("repair %s: %w", h.Host, err)
	}
	return nil
}

// Status is the truth about a host, for people who play with it.
type Status struct {
	Host      string   `json:"host"`
	Partition string   `json:"partition"`
	Mains     bool     `json:"mains"`
	Power     bool     `json:"power"`
	System    System   `json:"system"`
	Boot      string   `json:"boot"`
	Agent     int      `json:"agent,omitempty"` // process id
	Broken    []string `json:"broken,omitempty"`
}

// Status tells how the host really is.
func (h *Host) Status() Status {
	faults := h.bmc.Faults()
	h.mu.Lock()
	defer h.mu.Unlock()
	s := Status{
		Host: h.Host, Partition: h.Partition(), Mains: h.lit, Power: h.on, System: h.system, Boot: h.boot,
	}
	if h.agent != nil && !h.agent.over() {
		s.Agent = h.agent.PID()
	}
	for _, b := range []struct {
		is   bool
		text string
	}{
		{!h.lit, "no mains"},
		{h.lit && faults.Mute, "BMC is mute"},
		{faults.IgnoreCommands, "BMC lies"},
		{h.linkCut, "link cut"},
		{h.agentDown, "agent killed"},
		{h.fault.Hangs(), "pool hangs"},
	} {
		if b.is {
			s.Broken = append(s.Broken, b.text)
		}
	}
	return s
}

func join(hows []How) string {
	all := make([]string, len(hows))
	for i, h := range hows {
		all[i] = string(h)
	}
	return strings.Join(all, ", ")
}
