// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"encoding/binary"
	"time"
)

// Commands with their own name in this package (IPMI 2.0 appendix G).
const (
	cmdChassisStatus = 0x01
	lanChannel       = 1
)

// call is one request being carried out.
type call struct {
	message
	s   *session // nil outside a session
	f   Faults
	now time.Time
}

// command is a row of the table below. A command without run does not exist.
type command struct {
	least    Privilege // lowest operating level that may
	open     bool      // allowed before log-in
	min, max int       // bytes of data
	chassis  bool      // answered D2h while the BMC initialises
	reading  bool      // subject to EmptyBody
	verb     func(data []byte) Verb
	run      func(b *BMC, c call) (code byte, data []byte)
}

var commands = map[[2]byte]command{
	{netFnApp, 0x01}: {least: UserLevel, reading: true, run: getDeviceID},
	{netFnApp, 0x08}: {least: UserLevel, reading: true, run: getGUID},
	{netFnApp, 0x37}: {open: true, reading: true, run: getGUID},
	{netFnApp, 0x38}: {open: true, min: 2, max: 2, run: getAuthCapabilities},
	{netFnApp, 0x3b}: {min: 1, max: 1, run: setPrivilege},
	{netFnApp, 0x3c}: {min: 4, max: 5, run: closeSession},
	{netFnApp, 0x3d}: {least: UserLevel, min: 1, max: 5, run: getSessionInfo},
	{netFnApp, 0x54}: {open: true, min: 3, max: 3, run: getCipherSuites},

	{netFnChassis, 0x00}:             {least: UserLevel, reading: true, run: getChassisCapabilities},
	{netFnChassis, cmdChassisStatus}: {least: UserLevel, reading: true, chassis: true, run: getChassisStatus},
	{netFnChassis, 0x02}:             {least: Operator, min: 1, max: 1, chassis: true, verb: controlVerb, run: control},
	{netFnChassis, 0x04}:             {least: Operator, max: 2, chassis: true, verb: identifyVerb, run: identify},
}

// execute carries out a request and returns its answer as an IPMI message.
func (b *BMC) execute(c call) []byte {
	cmd, known := commands[[2]byte{c.netFn, c.cmd}]
	code := byte(codeOK)
	switch {
	case c.s == nil && !cmd.open, c.s != nil && c.s.level < cmd.least:
		code = codeNoPrivilege
	case !known || c.lun != 0:
		code = codeInvalidCommand
	case len(c.data) < cmd.min || len(c.data) > cmd.max:
		code = codeBadLength
	case c.f.Initialising && cmd.chassis:
		code = codeInitialising
	}
	if code != codeOK {
		if cmd.verb != nil && c.s != nil {
			power := b.cfg.Chassis.Power()
			b.record(c.entry(cmd.verb(c.data), power, power, Refused, code))
		}
		return c.answer(code, nil)
	}
	code, data := cmd.run(b, c)
	if cmd.reading && c.f.EmptyBody && code == codeOK && c.s != nil {
		data = nil
	}
	return c.answer(code, data)
}

func (c call) entry(v Verb, before, after bool, o Outcome, code byte) Entry {
	return Entry{
		Session: c.s.id, Remote: c.s.remote.String(), User: c.s.user.Name, Privilege: c.s.level,
		Verb: v, Before: before, After: after, Outcome: o, Code: code,
	}
}

func getDeviceID(_ *BMC, c call) (byte, []byte) {
	firmware := byte(0x01)
	if c.f.Initialising {
		firmware |= 0x80
	}
	return codeOK, []byte{0x20, 0x01, firmware, 0x00, 0x02, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}
}

func getGUID(b *BMC, c call) (byte, []byte) {
	guid := b.guid(c.f)
	return codeOK, guid[:]
}

func ownChannel(n byte) bool { return n&0x0f == 0x0e || n&0x0f == lanChannel }

func getAuthCapabilities(_ *BMC, c call) (byte, []byte) {
	if want := Privilege(c.data[1] & 0x0f); !ownChannel(c.data[0]) || want == 0 || want > Administrator {
		return codeBadField, nil
	}
	if c.data[0]&0x80 == 0 {
		return codeOK, []byte{lanChannel, 0x00, 0x04, 0, 0, 0, 0, 0} // nothing of IPMI 1.5
	}
	return codeOK, []byte{lanChannel, 0x80, 0x04, 0x02, 0, 0, 0, 0}
}

func getCipherSuites(b *BMC, c call) (byte, []byte) {
	if !ownChannel(c.data[0]) {
		return codeBadField, nil
	}
	var all []byte
	for _, id := range b.cfg.Suites {
		if s, ok := suiteByID(id); ok {
			all = append(all, s.record()...)
		}
	}
	from := min(int(c.data[2]&0x3f)*16, len(all))
	return codeOK, append([]byte{lanChannel}, all[from:min(from+16, len(all))]...)
}

func setPrivilege(_ *BMC, c call) (byte, []byte) {
	switch want := Privilege(c.data[0] & 0x0f); {
	case want == 0: // "no change, just return present privilege level"
	case want < UserLevel || want > Administrator:
		return codeBadField, nil
	case want > c.s.limit:
		return codePrivTooHigh, nil
	default:
		c.s.level = want
	}
	return codeOK, []byte{byte(c.s.level)}
}

func closeSession(b *BMC, c call) (byte, []byte) {
	id := binary.LittleEndian.Uint32(c.data)
	missing := byte(codeUnknownSession)
	which := func(s *session) bool { return s.id == id }
	if id == 0 {
		if len(c.data) < 5 {
			return codeUnknownSession, nil
		}
		missing, which = codeUnknownHandle, func(s *session) bool { return s.handle == c.data[4] }
	}
	gone := b.find(which)
	switch {
	case gone == nil || gone.phase != active:
		return missing, nil
	case gone != c.s && c.s.level < Administrator:
		return codeNoPrivilege, nil
	}
	b.drop(gone)
	return codeOK, nil
}

// getSessionInfo answers for this session, the Nth active one, a handle or an id;
// only the counts when there is none such (IPMI 2.0 §22.20).
func getSessionInfo(b *BMC, c call) (byte, []byte) {
	var live []*session
	for _, s := range b.sessions {
		if s.phase == active {
			live = append(live, s)
		}
	}
	var s *session
	match := func(want func(*session) bool) {
		for _, o := range live {
			if want(o) {
				s = o
			}
		}
	}
	switch index := c.data[0]; {
	case index == 0x00:
		s = c.s
	case index == 0xfe:
		if len(c.data) != 2 {
			return codeBadLength, nil
		}
		match(func(o *session) bool { return o.handle == c.data[1] })
	case index == 0xff:
		if len(c.data) != 5 {
			return codeBadLength, nil
		}
		match(func(o *session) bool { return o.id == binary.LittleEndian.Uint32(c.data[1:]) })
	case int(index) <= len(live):
		s = live[index-1]
	}
	if s == nil {
		return codeOK, []byte{0, byte(b.cfg.Slots), byte(len(live))}
	}
	out := []byte{s.handle, byte(b.cfg.Slots), byte(len(live)), s.userID, byte(s.level), 1<<4 | lanChannel}
	ip := [4]byte{}
	if a := s.remote.Addr().Unmap(); a.Is4() {
		ip = a.As4()
	}
	out = append(out, ip[:]...)
	out = append(out, 0, 0, 0, 0, 0, 0) // no hardware address on loopback
	return codeOK, binary.LittleEndian.AppendUint16(out, s.remote.Port())
}

func getChassisCapabilities(*BMC, call) (byte, []byte) {
	return codeOK, []byte{0x04, addrBMC, addrBMC, addrBMC, addrBMC}
}

func getChassisStatus(b *BMC, c call) (byte, []byte) {
	if b.spend(func(f *Faults) *int { return &f.BusyReads }) {
		return codeBusy, nil
	}
	out := []byte{0x20, 0x00, 0x40, 0x00} // restores its last state; can identify
	if b.reading(c.f) {
		out[0] |= 0x01
	}
	switch {
	case b.lampForced:
		out[2] |= 0x20
	case c.now.Before(b.lampUntil):
		out[2] |= 0x10
	}
	return codeOK, out
}

// reading is what the BMC says, the lies of power.md §6.1 included.
func (b *BMC) reading(f Faults) bool {
	b.mu.Lock()
	b.reads++
	b.mu.Unlock()
	switch {
	case f.SayOff, b.spend(func(f *Faults) *int { return &f.OffReadings }):
		return false
	case f.SayOn:
		return true
	}
	return b.cfg.Chassis.Power()
}

var controlVerbs = [...]Verb{VerbOff, VerbOn, VerbCycle, VerbReset, VerbDiag, VerbSoft}

func controlVerb(data []byte) Verb {
	if len(data) != 1 || int(data[0]&0x0f) >= len(controlVerbs) {
		return VerbInvalid
	}
	return controlVerbs[data[0]&0x0f]
}

func identifyVerb([]byte) Verb { return VerbIdentify }

func control(b *BMC, c call) (byte, []byte) {
	verb := controlVerb(c.data)
	before := b.cfg.Chassis.Power()
	code, outcome := b.judge(verb, before, c.f), Executed
	switch {
	case code != codeOK:
		outcome = Refused
	case c.f.IgnoreCommands:
		outcome = Ignored
	default:
		b.act(verb, c)
	}
	b.record(c.entry(verb, before, b.cfg.Chassis.Power(), outcome, code))
	return code, nil
}

// judge says whether the chassis can be asked for the verb now.
func (b *BMC) judge(verb Verb, on bool, f Faults) byte {
	_, canDiag := b.cfg.Chassis.(Diagnoser)
	switch {
	case verb == VerbInvalid || verb == VerbDiag && !canDiag:
		return codeBadField
	case b.spend(func(f *Faults) *int { return &f.Busy }):
		return codeBusy
	case !on && verb != VerbOff && verb != VerbOn:
		return codeWrongState // nothing there to cycle, reset or stop
	case f.RejectSameState && (on && verb == VerbOn || !on && verb == VerbOff):
		return codeWrongState
	}
	return codeOK
}

func (b *BMC) act(verb Verb, c call) {
	switch chassis := b.cfg.Chassis; verb {
	case VerbOff:
		chassis.SetPower(false)
		b.selfOn = time.Time{}
		if c.f.SelfOnAfter > 0 {
			b.selfOn = c.now.Add(c.f.SelfOnAfter)
		}
	case VerbOn:
		chassis.SetPower(true)
		b.selfOn = time.Time{}
	case VerbCycle:
		chassis.Cycle()
	case VerbReset:
		chassis.Reset()
	case VerbSoft:
		chassis.SoftOff()
	case VerbDiag:
		chassis.(Diagnoser).Diag()
	}
}

func identify(b *BMC, c call) (byte, []byte) {
	seconds, force := 15, false
	if len(c.data) > 0 {
		seconds = int(c.data[0])
	}
	if len(c.data) > 1 {
		force = c.data[1]&1 != 0
	}
	power, outcome := b.cfg.Chassis.Power(), Ignored
	if !c.f.IgnoreCommands {
		b.lampForced, b.lampUntil = force, c.now.Add(time.Duration(seconds)*time.Second)
		b.cfg.Chassis.Identify(seconds, force)
		outcome = Executed
	}
	b.record(c.entry(VerbIdentify, power, b.cfg.Chassis.Power(), outcome, codeOK))
	return codeOK, nil
}
