// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/power"
)

type bmcMode string

const (
	bmcOK       bmcMode = "ok"
	bmcDead     bmcMode = "dead"
	bmcLies     bmcMode = "lies"      // accepts every command and does nothing
	bmcStuckOff bmcMode = "stuck-off" // always reads OFF and does nothing
	bmcStuckOn  bmcMode = "stuck-on"  // always reads ON; commands work
	bmcStale    bmcMode = "stale"     // commands work; readings lag by staleLag
	bmcSlow     bmcMode = "slow"      // every answer takes slowAnswer
	bmcBusy     bmcMode = "busy"
	bmcFull     bmcMode = "full" // no session left
	bmcAuth     bmcMode = "auth" // its password was changed
	bmcWrong    bmcMode = "wrong"
	bmcFlaky    bmcMode = "flaky"   // loses three answers of ten
	bmcRevives  bmcMode = "revives" // the chassis switches itself on again after an off
)

var bmcModes = []bmcMode{bmcOK, bmcDead, bmcLies, bmcStuckOff, bmcStuckOn, bmcStale, bmcSlow, bmcBusy, bmcFull, bmcAuth, bmcWrong, bmcFlaky, bmcRevives}

const (
	bmcBoots    = 20 * time.Second
	chassisBack = 30 * time.Second
	slowAnswer  = 4 * time.Second
	staleLag    = 5 * time.Second
	offTakes    = time.Second
	exchange    = 50 * time.Millisecond
	silentTakes = 4 * time.Second // two packets without an answer
	reviveAfter = 4 * time.Second
	soft        = 10 * time.Second
)

// bmc is a host's management controller. Mode wrong: behind the address is another box.
type bmc struct {
	mode bmcMode
	upAt time.Time
	was  power.State // what it read staleLag ago
	at   time.Time
}

// answer is what a device says to one exchange: an error kind, or a state.
type answer struct {
	state power.State
	err   power.Kind
	text  string
	takes time.Duration
}

// ask reads a device of the host for a worker.
func (h *host) ask(w *worker, device string) answer {
	if device == "pdu" {
		switch {
		case w.isolated || !h.pdu.alive || !h.rack.mains || !h.f.nets[oob] || h.switchOn(oob).state != switchUp:
			return answer{err: power.Unreachable, text: "no answer", takes: silentTakes}
		case h.outlet:
			return answer{state: power.On, takes: exchange}
		}
		return answer{state: power.Off, takes: exchange}
	}
	b := &h.bmc
	if w.isolated || !h.fed || h.f.now.Before(b.upAt) || b.mode == bmcDead || !h.onNet(oob) {
		return answer{err: power.Unreachable, text: "no answer", takes: silentTakes}
	}
	a := answer{state: power.Off, takes: exchange}
	if h.chassis {
		a.state = power.On
	}
	switch b.mode {
	case bmcStuckOff:
		a.state = power.Off
	case bmcStuckOn:
		a.state = power.On
	case bmcStale:
		if h.f.now.Sub(b.at) < staleLag {
			a.state = b.was
		}
	case bmcSlow:
		a.takes = slowAnswer
	case bmcBusy:
		return answer{err: power.Busy, text: "node busy", takes: exchange}
	case bmcFull:
		return answer{err: power.SessionLimit, text: "insufficient resources for a session", takes: exchange}
	case bmcAuth:
		return answer{err: power.AuthFailed, text: "the password is refused", takes: exchange}
	case bmcWrong:
		return answer{err: power.IdentityMismatch, text: "it answers as another box than the one that was enrolled", takes: exchange}
	case bmcFlaky:
		if h.f.rng.IntN(10) < 3 {
			return answer{err: power.Timeout, text: "an answer was lost", takes: silentTakes}
		}
	}
	return a
}

// command carries out a verb that the device has taken. It returns what the device says.
func (h *host) command(device string, v power.Verb) power.Outcome {
	f := h.f
	if device == "pdu" {
		switch v {
		case power.HardOff, power.HardOn:
			h.outlet = v == power.HardOn
			if h.outlet {
				h.wantOn = true
			}
			h.refeed()
			return power.Accepted
		}
		return power.Rejected
	}
	if h.bmc.mode == bmcLies || h.bmc.mode == bmcStuckOff {
		return power.Accepted
	}
	h.bmc.was, h.bmc.at = power.Off, f.now
	if h.chassis {
		h.bmc.was = power.On
	}
	switch v {
	case power.HardOff:
		if h.chassis {
			f.after(offTakes, func() { h.setChassis(false) })
			if h.bmc.mode == bmcRevives {
				f.after(offTakes+reviveAfter, func() { h.setChassis(true) })
			}
		}
	case power.SoftOff:
		if !h.works() {
			break
		}
		boot := h.bootNo
		if o := h.owner; o != nil && h.link.up {
			f.after(exchange, func() { o.goodbye("host-shutdown") })
		}
		f.after(soft, func() {
			if h.bootNo == boot && h.works() {
				h.setChassis(false)
			}
		})
	case power.HardOn:
		h.setChassis(true)
	case power.Reset, power.Cycle:
		if h.chassis {
			h.die()
			h.startBoot()
		} else if v == power.Cycle {
			return power.AlreadyThere
		}
	}
	f.refresh(h)
	return power.Accepted
}

// liar: what this device says of OFF is not so.
func (h *host) liar() bool { return h.bmc.mode == bmcStuckOff }
