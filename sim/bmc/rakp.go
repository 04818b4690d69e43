// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// RMCP+ status codes (IPMI 2.0 table 13-15).
const (
	statusOK             = 0x00
	statusNoResources    = 0x01
	statusInvalidSession = 0x02
	statusInvalidRole    = 0x09
	statusRoleRefused    = 0x0a
	statusBadNameLength  = 0x0c
	statusUnknownName    = 0x0d
	statusBadIntegrity   = 0x0f
	statusNoSuiteMatch   = 0x11
	statusBadParameter   = 0x12
)

// exchange is a setup request and its answer, kept to answer a retransmission alike:
// the second try of a lost answer must not fail because the first one worked.
type exchange struct {
	from          netip.AddrPort
	at            time.Time
	kind          byte
	request, sent []byte
}

const (
	setupMemory = 16
	setupFor    = 20 * time.Second // no client repeats itself later
)

// setup answers the session setup payloads; nil means silence.
func (b *BMC) setup(from netip.AddrPort, k packet, f Faults, now time.Time) []byte {
	if k.encrypted || k.authenticated {
		return nil
	}
	if k.kind == payloadOpen {
		return b.openSession(from, k.body, f, now)
	}
	// Messages of RAKP carry random numbers, so equal bytes are a retransmission.
	for _, e := range b.setups {
		if e.from == from && e.kind == k.kind && bytes.Equal(e.request, k.body) {
			return e.sent
		}
	}
	var sent []byte
	switch k.kind {
	case payloadRAKP1:
		sent = b.rakp1(from, k.body, f, now)
	case payloadRAKP3:
		sent = b.rakp3(k.body, f, now)
	}
	if sent != nil {
		b.setups = slices.DeleteFunc(b.setups, func(e exchange) bool { return now.Sub(e.at) > setupFor })
		if len(b.setups) >= setupMemory {
			b.setups = slices.Delete(b.setups, 0, 1)
		}
		b.setups = append(b.setups, exchange{from, now, k.kind, bytes.Clone(k.body), sent})
	}
	return sent
}

// refusal is the short form of each setup answer.
func refusal(kind, tag, status byte, console uint32) []byte {
	return plainPlus(kind, binary.LittleEndian.AppendUint32([]byte{tag, status, 0, 0}, console))
}

func (b *BMC) openSession(from netip.AddrPort, p []byte, f Faults, now time.Time) []byte {
	if len(p) < 8 {
		return nil
	}
	tag, console := p[0], binary.LittleEndian.Uint32(p[4:])
	no := func(status byte) []byte { return refusal(payloadOpened, tag, status, console) }
	want := Privilege(p[1] & 0x0f)
	switch {
	case len(p) != 32 || p[8] != 0 || p[16] != 1 || p[24] != 2 || p[11] != 8 || p[19] != 8 || p[27] != 8:
		return no(statusBadParameter)
	case console == 0:
		return no(statusInvalidSession)
	case want > Administrator:
		return no(statusInvalidRole)
	}
	if want == 0 {
		want = Administrator // "highest level matching the proposed algorithms"
	}
	chosen, ok := b.offered(p[12]&0x3f, p[20]&0x3f, p[28]&0x3f)
	if !ok {
		return no(statusNoSuiteMatch)
	}
	if f.Downgrade {
		chosen.integrity, chosen.conf = 0, 0
	}
	s := b.find(func(s *session) bool {
		return s.phase == opened && s.remote == from && bytes.Equal(s.open, p) && !f.OrphanOpens
	})
	if s == nil && !f.NoSlots {
		s = b.admit(from, now)
	}
	if s == nil {
		return no(statusNoResources)
	}
	s.console, s.suite, s.limit, s.open = console, chosen, want, bytes.Clone(p)
	out := binary.LittleEndian.AppendUint32([]byte{tag, statusOK, byte(want), 0}, console)
	out = binary.LittleEndian.AppendUint32(out, s.id)
	out = append(out, 0, 0, 0, 8, chosen.auth, 0, 0, 0)
	out = append(out, 1, 0, 0, 8, chosen.integrity, 0, 0, 0)
	out = append(out, 2, 0, 0, 8, chosen.conf, 0, 0, 0)
	return plainPlus(payloadOpened, out)
}

// offered finds the configured suite with exactly these algorithms.
func (b *BMC) offered(auth, integrity, conf byte) (suite, bool) {
	for _, id := range b.cfg.Suites {
		if s, ok := suiteByID(id); ok && s.auth == auth && s.integrity == integrity && s.conf == conf {
			return s, true
		}
	}
	return suite{}, false
}

func (b *BMC) rakp1(from netip.AddrPort, p []byte, f Faults, now time.Time) []byte {
	if len(p) < 28 {
		return nil
	}
	tag, role, name := p[0], p[24], p[28:]
	s := b.byID(binary.LittleEndian.Uint32(p[4:]))
	if s == nil || s.phase == active || s.remote != from {
		return refusal(payloadRAKP2, tag, statusInvalidSession, 0)
	}
	no := func(status byte) []byte {
		b.drop(s)
		return refusal(payloadRAKP2, tag, status, s.console)
	}
	want := Privilege(role & 0x0f)
	switch {
	case p[27] > maxName:
		return no(statusBadNameLength)
	case len(name) != int(p[27]):
		return no(statusBadParameter)
	case want == 0 || want > Administrator:
		return no(statusInvalidRole)
	}
	user, id, ok := b.userByName(string(name))
	if !ok || b.locked(user.Name, f, now) {
		return no(statusUnknownName)
	}
	if want > user.Privilege || want > s.limit {
		return no(statusRoleRefused)
	}
	s.phase, s.seen, s.user, s.userID, s.limit, s.role = keyed, now, user, id, want, role
	s.consoleRand = bytes.Clone(p[8:24])
	s.rand = make([]byte, 16)
	random(s.rand)
	guid := b.guid(f)
	who := append([]byte{role, byte(len(name))}, name...)
	key := []byte(user.Password)
	s.sik = s.suite.mac(key, s.consoleRand, s.rand, who)
	code := s.suite.mac(key, le32(s.console), le32(s.id), s.consoleRand, s.rand, guid[:], who)

	out := append([]byte{tag, statusOK, 0, 0}, le32(s.console)...)
	out = append(out, s.rand...)
	out = append(out, guid[:]...)
	return plainPlus(payloadRAKP2, append(out, code...))
}

func (b *BMC) rakp3(p []byte, f Faults, now time.Time) []byte {
	if len(p) < 8 {
		return nil
	}
	tag, status := p[0], p[1]
	s := b.byID(binary.LittleEndian.Uint32(p[4:]))
	if s == nil || s.phase == active || s.phase == opened && status == statusOK {
		return refusal(payloadRAKP4, tag, statusInvalidSession, 0)
	}
	if status != statusOK { // the client gave up; its slot is free at once, and it hears nothing
		if status == statusBadIntegrity && s.phase == keyed {
			b.failed(s.user.Name, now)
		}
		b.drop(s)
		return nil
	}
	who := append([]byte{s.role, byte(len(s.user.Name))}, s.user.Name...)
	if !hmac.Equal(s.suite.mac([]byte(s.user.Password), s.rand, le32(s.console), who), p[8:]) {
		b.failed(s.user.Name, now)
		b.drop(s)
		return refusal(payloadRAKP4, tag, statusBadIntegrity, s.console)
	}
	delete(b.failures, s.user.Name)
	s.activate(now)
	guid := b.guid(f)
	icv := s.suite.mac(s.sik, s.consoleRand, le32(s.id), guid[:])[:s.suite.rakp4Len()]
	out := append([]byte{tag, statusOK, 0, 0}, le32(s.console)...)
	return plainPlus(payloadRAKP4, append(out, icv...))
}

// strike counts a user's failed log-ins in a row.
type strike struct {
	count int
	last  time.Time
}

func (b *BMC) failed(user string, now time.Time) {
	s := b.failures[user]
	if b.failures == nil {
		b.failures = map[string]strike{}
	}
	b.failures[user] = strike{s.count + 1, now}
}

// locked says whether the lock-out fault holds for the user; each attempt extends it.
func (b *BMC) locked(user string, f Faults, now time.Time) bool {
	s := b.failures[user]
	if f.LockoutAfter == 0 || s.count < f.LockoutAfter {
		return false
	}
	if now.Sub(s.last) > f.LockoutFor {
		delete(b.failures, user)
		return false
	}
	b.failures[user] = strike{s.count, now}
	return true
}

func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
