// SPDX-License-Identifier: Apache-2.0

package world

import (
	"errors"
	"fmt"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/pdu"
	"github.com/holdfast-ha/holdfast/sim/redfish"
)

// listenRedfish gives the host a Redfish service for the same chassis, where its place
// has one.
func (h *Host) listenRedfish(users []bmc.User, uuid string) error {
	if !h.cfg.Faces || !h.Redfish.IsValid() {
		return nil
	}
	h.redfish = redfish.New(redfish.Config{
		Name: h.Host, Addr: h.Redfish.String(), Users: users,
		Systems: []redfish.System{{UUID: uuid, Serial: h.Host, Chassis: h}},
	})
	return h.redfish.Listen()
}

// newPDUs makes the PDUs that feed hosts, each with an outlet for each of them. All are fed
// by the first and the second one alike.
func newPDUs(hosts []*Host, community string) (out []*pdu.PDU, err error) {
	for feed, name := range [2]string{"pdu-a", "pdu-b"} {
		var addr string
		var outlets []pdu.Outlet
		for _, h := range hosts {
			if h.Outlet > 0 {
				addr = h.PDUs[feed].String()
				outlets = append(outlets, pdu.Outlet{Label: h.Host, Feed: func(on bool) { h.feed(feed, on) }})
			}
		}
		if len(outlets) == 0 {
			return nil, nil
		}
		p := pdu.New(pdu.Config{Name: name, Addr: addr, Community: community, Outlets: outlets})
		if err := p.Listen(); err != nil {
			return nil, fmt.Errorf("make world: %w", err)
		}
		out = append(out, p)
	}
	return out, nil
}

// feed tells the host of one of its feeds.
func (h *Host) feed(which int, on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fed[which] = on
	h.power()
}

// power takes the mains away that nothing brings any more, or gives them back: the chassis
// then does as it did before. Callers hold mu.
func (h *Host) power() {
	now := h.mains && (h.fed[0] || h.fed[1])
	if now == h.lit {
		return
	}
	h.lit = now
	h.bmc.SetMains(now)
	if h.redfish != nil {
		h.redfish.SetMains(now)
	}
	switch {
	case !now:
		h.wasOn = h.on
		h.halt(SystemOff)
		h.on = false
	case h.wasOn:
		h.powerOn()
	}
}

// deafen makes all that manages the host mute, or obedient in word only, or well again.
func (h *Host) deafen(mute, lies bool) error {
	err := h.bmc.SetFaults(bmc.Faults{Mute: mute, IgnoreCommands: lies})
	if h.redfish != nil {
		err = errors.Join(err, h.redfish.SetFaults(redfish.Faults{Mute: mute, IgnoreCommands: lies}))
	}
	return err
}
