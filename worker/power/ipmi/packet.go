// SPDX-License-Identifier: Apache-2.0

package ipmi

import "encoding/binary"

// Payload types of RMCP+ (IPMI 2.0 table 13-16).
const (
	typeMessage  = 0x00
	typeOpenReq  = 0x10
	typeOpenResp = 0x11
	typeRAKP1    = 0x12
	typeRAKP2    = 0x13
	typeRAKP3    = 0x14
	typeRAKP4    = 0x15

	flagEncrypted     = 0x80
	flagAuthenticated = 0x40

	rmcpLen    = 4
	headerLen  = 12 // session header: format, type, session id, sequence, length
	messageMin = 8  // response: addresses, function, two checksums, sequence, command, completion code
)

var rmcpHeader = [rmcpLen]byte{0x06, 0x00, 0xff, 0x07}

// packet is a parsed RMCP+ datagram; slices point into it.
type packet struct {
	kind    byte // payload type with flags
	id, seq uint32
	payload []byte
	rest    []byte // session trailer
	raw     []byte // from the session header on
}

// parse reads the layout only; nothing of it is authentic yet. IPMI 1.5, ASF and OEM
// payloads are not RMCP+ as spoken here.
func parse(p []byte) (packet, bool) {
	if len(p) < rmcpLen+headerLen || p[0] != rmcpHeader[0] || p[3] != rmcpHeader[3] || p[4] != 0x06 {
		return packet{}, false
	}
	raw := p[rmcpLen:]
	n := int(binary.LittleEndian.Uint16(raw[10:]))
	if headerLen+n > len(raw) {
		return packet{}, false
	}
	return packet{
		kind: raw[1], id: binary.LittleEndian.Uint32(raw[2:]), seq: binary.LittleEndian.Uint32(raw[6:]),
		payload: raw[headerLen : headerLen+n], rest: raw[headerLen+n:], raw: raw,
	}, true
}

// trailer splits the session trailer: pad (at most 3 bytes), its length, 07h, code.
func (p packet) trailer(codeLen int) (signed, code []byte, ok bool) {
	pad := len(p.rest) - 2 - codeLen
	if pad < 0 || pad > 3 || int(p.rest[pad]) != pad || p.rest[pad+1] != 0x07 {
		return nil, nil, false
	}
	cut := len(p.raw) - codeLen
	return p.raw[:cut], p.raw[cut:], true
}

// handshake builds a packet outside a session.
func handshake(kind byte, payload []byte) []byte {
	p := append(rmcpHeader[:], 0x06, kind, 0, 0, 0, 0, 0, 0, 0, 0)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(payload)))
	return append(p, payload...)
}

// message is an IPMB request or response: two checksummed parts.
type message []byte

// newMessage makes a request from a remote console to the BMC.
func newMessage(netFn, cmd, seq byte, data []byte) message {
	const bmc, console = 0x20, 0x81
	m := make(message, 0, 7+len(data))
	m = append(m, bmc, netFn<<2, 0, console, seq<<2, cmd)
	m = append(m, data...)
	var body byte
	for _, b := range m[3:] {
		body += b
	}
	m[2] = -(m[0] + m[1])
	return append(m, -body)
}

func (m message) sound() bool {
	var head, body byte
	for i, b := range m {
		if i < 3 {
			head += b
		} else {
			body += b
		}
	}
	return head == 0 && body == 0
}

func (m message) netFn() byte   { return m[1] >> 2 }
func (m message) seq() byte     { return m[4] >> 2 }
func (m message) command() byte { return m[5] }
func (m message) code() byte    { return m[6] } // of a response
func (m message) body() []byte  { return m[7 : len(m)-1] }

// answers reports whether m, a sound response, answers the request. Addresses are not
// compared: devices differ in them, and the integrity code already names the session.
func (m message) answers(request message) bool {
	return m.netFn() == request.netFn()|1 && m.seq() == request.seq() && m.command() == request.command()
}
