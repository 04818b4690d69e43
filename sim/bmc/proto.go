// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"encoding/binary"
	"slices"
)

// RMCP classes, session formats and payload types (IPMI 2.0 §13.1.3, §13.6, §13.27.3).
const (
	classASF  = 0x06
	classIPMI = 0x07

	formatNone = 0x00 // IPMI 1.5, no authentication
	formatPlus = 0x06 // RMCP+

	payloadIPMI   = 0x00
	payloadOpen   = 0x10
	payloadOpened = 0x11
	payloadRAKP1  = 0x12
	payloadRAKP2  = 0x13
	payloadRAKP3  = 0x14
	payloadRAKP4  = 0x15

	flagEncrypted     = 0x80
	flagAuthenticated = 0x40

	addrBMC = 0x20

	maxDatagram = 1024 // no request this BMC understands comes near
)

// Network functions of requests; an answer's is one higher.
const (
	netFnChassis = 0x00
	netFnApp     = 0x06
)

// Completion codes (IPMI 2.0 table 5-2, and of single commands where named).
const (
	codeOK             = 0x00
	codePrivTooHigh    = 0x81 // Set Session Privilege Level
	codeUnknownSession = 0x87 // Close Session
	codeUnknownHandle  = 0x88 // Close Session
	codeBusy           = 0xc0
	codeInvalidCommand = 0xc1
	codeBadLength      = 0xc7
	codeBadField       = 0xcc
	codeInitialising   = 0xd2
	codeNoPrivilege    = 0xd4
	codeWrongState     = 0xd5
)

var rmcpIPMI = []byte{0x06, 0x00, 0xff, classIPMI}

// pong answers an ASF presence ping (IPMI 2.0 §13.2.3, §13.2.4) and nothing else.
func pong(datagram []byte) []byte {
	const enterprise = "\x00\x00\x11\xbe"
	if len(datagram) < 12 || string(datagram[4:8]) != enterprise || datagram[8] != 0x80 {
		return nil
	}
	out := []byte{0x06, 0x00, 0xff, classASF}
	out = append(out, enterprise...)
	out = append(out, 0x40, datagram[9], 0x00, 0x10)
	out = append(out, enterprise...)
	return append(out, 0, 0, 0, 0, 0x81, 0, 0, 0, 0, 0, 0, 0)
}

// packet is a session wrapper, of IPMI 1.5 without authentication or of RMCP+.
type packet struct {
	v15           bool
	kind          byte // payload type
	encrypted     bool
	authenticated bool
	session, seq  uint32
	body          []byte // as sent, maybe encrypted
	signed        []byte // from the format byte to the end of the datagram
	trailer       []byte // what follows the body
}

// parsePacket takes what follows the RMCP header.
func parsePacket(p []byte) (packet, bool) {
	if len(p) == 0 {
		return packet{}, false
	}
	switch p[0] {
	case formatNone:
		if len(p) < 10 {
			return packet{}, false
		}
		k := packet{v15: true, seq: binary.LittleEndian.Uint32(p[1:]), session: binary.LittleEndian.Uint32(p[5:])}
		n := int(p[9])
		if len(p) < 10+n {
			return packet{}, false
		}
		k.body = p[10 : 10+n]
		return k, true
	case formatPlus:
		if len(p) < 12 {
			return packet{}, false
		}
		k := packet{
			kind:          p[1] & 0x3f,
			encrypted:     p[1]&flagEncrypted != 0,
			authenticated: p[1]&flagAuthenticated != 0,
			session:       binary.LittleEndian.Uint32(p[2:]),
			seq:           binary.LittleEndian.Uint32(p[6:]),
		}
		n := int(binary.LittleEndian.Uint16(p[10:]))
		if len(p) < 12+n {
			return packet{}, false
		}
		k.body, k.trailer, k.signed = p[12:12+n], p[12+n:], p
		return k, true
	}
	return packet{}, false
}

// plainV15 wraps a message as IPMI 1.5 does outside a session.
func plainV15(msg []byte) []byte {
	out := append(slices.Clone(rmcpIPMI), formatNone, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(msg)))
	return append(out, msg...)
}

// header is an RMCP header and an RMCP+ session header for a body of n bytes.
func header(kind byte, session, seq uint32, n int) []byte {
	out := append(slices.Clone(rmcpIPMI), formatPlus, kind)
	out = binary.LittleEndian.AppendUint32(out, session)
	out = binary.LittleEndian.AppendUint32(out, seq)
	return binary.LittleEndian.AppendUint16(out, uint16(n))
}

// plainPlus wraps a body as RMCP+ does outside a session.
func plainPlus(kind byte, body []byte) []byte {
	return append(header(kind, 0, 0, len(body)), body...)
}

// message is an IPMI request as LAN messaging carries it (IPMI 2.0 §13.8).
type message struct {
	netFn, cmd   byte
	lun          byte // of the responder
	rqAddr       byte
	rqSeq, rqLUN byte
	data         []byte
}

// parseMessage accepts a request to the BMC with right checksums.
func parseMessage(p []byte) (message, bool) {
	if len(p) < 7 || p[0] != addrBMC || checksum(p[:3]) != 0 || checksum(p[3:]) != 0 {
		return message{}, false
	}
	m := message{
		netFn: p[1] >> 2, lun: p[1] & 3,
		rqAddr: p[3], rqSeq: p[4] >> 2, rqLUN: p[4] & 3,
		cmd: p[5], data: p[6 : len(p)-1],
	}
	return m, m.netFn&1 == 0
}

// answer is the response to m on the wire.
func (m message) answer(code byte, data []byte) []byte {
	out := []byte{m.rqAddr, (m.netFn|1)<<2 | m.rqLUN}
	out = append(out, -checksum(out), addrBMC, m.rqSeq<<2|m.lun, m.cmd, code)
	out = append(out, data...)
	return append(out, -checksum(out[3:]))
}

// checksum is the sum of all bytes; over a block that ends in its own checksum it is zero.
func checksum(p []byte) byte {
	var sum byte
	for _, c := range p {
		sum += c
	}
	return sum
}
