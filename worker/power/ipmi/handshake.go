// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"crypto/hmac"
	"encoding/binary"

	"github.com/bougou/go-ipmi/pkg/rmcpplus"
	"github.com/bougou/go-ipmi/pkg/types"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
)

// RMCP+ and RAKP status codes (IPMI 2.0 table 13-15) that mean something to us.
const (
	statusNoSlot        = 0x01
	statusNoSlotForRole = 0x0b
	statusBadRole       = 0x09
	statusRoleRefused   = 0x0a
	statusNameLength    = 0x0c
	statusBadName       = 0x0d
	statusBadCheckValue = 0x0f
)

// statusFault gives a status code its kind (power.md §7).
func statusFault(code byte) *fault {
	f := &fault{kind: corepower.RemoteError, code: int(code), detail: "the session was refused"}
	switch code {
	case statusNoSlot, statusNoSlotForRole:
		f.kind, f.detail = corepower.SessionLimit, "all sessions of the device are taken"
	case statusBadRole, statusRoleRefused:
		f.kind, f.detail = corepower.PrivilegeDenied, "the account may not have the privilege asked for"
	case statusBadName, statusBadCheckValue:
		f.kind, f.detail = corepower.AuthFailed, "user or password refused"
	case statusNameLength:
		f.kind, f.detail = corepower.BadConfig, "the device does not take a user name of this length"
	case 0x04, 0x05, 0x06, 0x07, 0x10, 0x11:
		f.kind, f.detail, f.suite = corepower.Unsupported, "the device does not know this cipher suite", true
	}
	return f
}

// setup makes a message of the log-in.
func (g *guard) setup(kind byte) []byte {
	switch kind {
	case typeOpenReq:
		auth, integ, crypt := rmcpplus.NewAlgorithmPayloads(types.AuthAlg(g.s.auth), types.IntegrityAlg(g.s.integ), types.CryptAlg(g.s.crypt))
		return (&rmcpplus.OpenSessionRequest{ // level 0: the highest that goes with these algorithms
			MessageTag: g.tag, RemoteConsoleSessionID: g.s.ours, AuthenticationPayload: auth, IntegrityPayload: integ, ConfidentialityPayload: crypt,
		}).Pack()
	case typeRAKP1:
		m := &rmcpplus.RAKPMessage1{
			MessageTag: g.tag, ManagedSystemSessionID: g.s.bmc, RemoteConsoleRandomNumber: g.s.crand,
			NameOnlyLookup: true, RequestedMaximumPrivilegeLevel: types.PrivilegeLevel(g.privilege), UsernameLength: uint8(len(g.s.user)), Username: []byte(g.s.user),
		}
		g.s.role = m.Role()
		return m.Pack()
	}
	return (&rmcpplus.RAKPMessage3{MessageTag: g.tag, ManagedSystemSessionID: g.s.bmc, KeyExchangeAuthenticationCode: g.s.rakp3()}).Pack()
}

// judgeHandshake judges a datagram before the session is active. Only RAKP 2 and 4 carry
// proof; status codes and a failing proof are refusals to be believed after the grace.
func (g *guard) judgeHandshake(op *operation, pk packet) (Reason, *fault) {
	m := pk.payload
	switch pk.kind {
	case typeOpenResp, typeRAKP2, typeRAKP4:
	default:
		return Unauthenticated, nil
	}
	// Some BMCs, those of OpenIPMI among them, refuse an algorithm with tag and status alone.
	curt := pk.kind == typeOpenResp && len(m) >= 2 && len(m) < 8 && statusFault(m[1]).suite
	if pk.id != 0 || len(m) < 8 && !curt {
		return Malformed, nil
	}
	if !curt && binary.LittleEndian.Uint32(m[4:]) != g.s.ours {
		return ForeignSession, nil
	}
	if m[0] != g.tag || pk.kind != op.kind+1 || op.sent == 0 {
		return Late, nil
	}
	if m[1] != 0 {
		f := statusFault(m[1])
		if pk.kind == typeRAKP4 && g.repeated && f.kind == corepower.AuthFailed {
			// RAKP 2 has proven the password. What failed is the device's memory of which
			// of our repeated messages it answered; that must not lock anybody out.
			f.kind, f.detail = corepower.Timeout, "the device lost track of a repeated log-in"
		}
		return accepted, f
	}
	switch pk.kind {
	case typeOpenResp:
		return g.judgeOpen(m)
	case typeRAKP2:
		return g.judgeRAKP2(m)
	}
	return g.judgeRAKP4(m)
}

func (g *guard) judgeOpen(m []byte) (Reason, *fault) {
	if g.step != stepIdle {
		return Late, nil // a BMC slower than the packet time-out answers each repetition
	}
	if len(m) < 36 || m[12] != 0 || m[20] != 1 || m[28] != 2 || binary.LittleEndian.Uint32(m[8:]) == 0 {
		return Malformed, nil
	}
	if m[16]&0x3f != g.s.auth || m[24]&0x3f != g.s.integ || m[32]&0x3f != g.s.crypt {
		g.unwanted = binary.LittleEndian.Uint32(m[8:]) // the device holds a slot for it all the same
		return Weaker, &fault{kind: corepower.ProtocolViolation, suite: true,
			detail: "the device answered with other algorithms than asked for"}
	}
	g.s.bmc = binary.LittleEndian.Uint32(m[8:])
	g.step = stepOpened
	return accepted, nil
}

func (g *guard) judgeRAKP2(m []byte) (Reason, *fault) {
	if g.step != stepOpened && g.step != stepProven {
		return Late, nil
	}
	if len(m) < 40+g.s.hash().Size() {
		return Malformed, nil
	}
	brand, guid := g.s.brand, g.s.guid
	copy(g.s.brand[:], m[8:])
	copy(g.s.guid[:], m[24:])
	if !hmac.Equal(g.s.rakp2(), m[40:40+g.s.hash().Size()]) {
		g.s.brand, g.s.guid = brand, guid
		return BadProof, &fault{kind: corepower.AuthFailed, detail: "user or password wrong: the device's proof does not match"}
	}
	g.check = g.s.derive()
	g.step = stepProven
	return accepted, nil
}

func (g *guard) judgeRAKP4(m []byte) (Reason, *fault) {
	if g.step != stepProven {
		return Late, nil
	}
	if len(m) < 8+g.s.codeLen {
		return Malformed, nil
	}
	if !hmac.Equal(g.check, m[8:8+g.s.codeLen]) {
		return BadProof, &fault{kind: corepower.ProtocolViolation, detail: "the device's session key differs (is a key Kg set on it?)"}
	}
	g.step = stepActive
	return accepted, nil
}
