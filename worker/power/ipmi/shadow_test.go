// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"slices"
	"sync"
)

// shadow is an attacker who knows the password: it follows the log-in through the relay
// and can sign, encrypt and answer like the BMC.
type shadow struct {
	mu      sync.Mutex
	s       session
	seq     uint32  // highest sequence number the BMC used
	request message // the last request of the client
}

func newShadow(su suite, user string) *shadow {
	sh := &shadow{s: session{suite: su, user: user}}
	copy(sh.s.kuid[:], password)
	return sh
}

// follow installs the shadow on a relay. Answers pass through change, which may be nil.
func (sh *shadow) follow(r *relay, change func(pk packet, p []byte) [][]byte) {
	r.hook(func(p []byte) [][]byte {
		if pk, ok := parse(p); ok {
			sh.up(pk)
		}
		return [][]byte{p}
	}, func(p []byte) [][]byte {
		pk, ok := parse(p)
		if ok {
			sh.down(pk)
		}
		if ok && change != nil {
			return change(pk, p)
		}
		return [][]byte{p}
	})
}

func (sh *shadow) up(pk packet) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	switch pk.kind {
	case typeOpenReq:
		sh.s.ours = binary.LittleEndian.Uint32(pk.payload[4:])
	case typeRAKP1:
		copy(sh.s.crand[:], pk.payload[8:])
		sh.s.role = pk.payload[24]
	case typeMessage | flagAuthenticated | flagEncrypted:
		if m, ok := sh.s.open(pk.payload); ok {
			sh.request = m
		}
	}
}

func (sh *shadow) down(pk packet) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	switch {
	case pk.kind == typeOpenResp && pk.payload[1] == 0:
		sh.s.bmc = binary.LittleEndian.Uint32(pk.payload[8:])
	case pk.kind == typeRAKP2 && pk.payload[1] == 0:
		copy(sh.s.brand[:], pk.payload[8:])
		copy(sh.s.guid[:], pk.payload[24:])
		sh.s.derive()
	case pk.kind&flagAuthenticated != 0:
		sh.seq = max(sh.seq, pk.seq)
	}
}

// answer is a sound response to the client's last request.
func (sh *shadow) answer(code byte, body ...byte) message {
	q := sh.request
	m := message{q[3], (q.netFn() | 1) << 2, 0, q[0], q[4], q[5], code}
	m = append(m, body...)
	m[2] = -(m[0] + m[1])
	var sum byte
	for _, b := range m[3:] {
		sum += b
	}
	return append(m, -sum)
}

// off is what a forger wants us to believe.
func (sh *shadow) off() message { return sh.answer(0, 0x20, 0x00, 0x40, 0x00) }

// encrypt encrypts plain, which must be whole blocks.
func (sh *shadow) encrypt(plain []byte) []byte {
	block, err := aes.NewCipher(sh.s.k2[:16])
	if err != nil {
		panic(err)
	}
	out := make([]byte, 16+len(plain))
	cipher.NewCBCEncrypter(block, out[:16]).CryptBlocks(out[16:], plain)
	return out
}

func pad(m []byte) []byte {
	m = slices.Clone(m)
	n := (16 - (len(m)+1)%16) % 16
	for i := range n {
		m = append(m, byte(i+1))
	}
	return append(m, byte(n))
}

// wrap puts a payload into a packet of the session; signed or with a code of zeros.
func (sh *shadow) wrap(kind byte, seq uint32, payload []byte, signed bool) []byte {
	p := append(rmcpHeader[:], 0x06, kind)
	p = binary.LittleEndian.AppendUint32(p, sh.s.ours)
	p = binary.LittleEndian.AppendUint32(p, seq)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(payload)))
	p = append(p, payload...)
	if kind&flagAuthenticated == 0 {
		return p
	}
	n := (4 - (len(p)-rmcpLen+2)%4) % 4
	for range n {
		p = append(p, 0xff)
	}
	p = append(p, byte(n), 0x07)
	if !signed {
		return append(p, make([]byte, sh.s.codeLen)...)
	}
	return append(p, sh.s.mac(sh.s.k1, p[rmcpLen:])[:sh.s.codeLen]...)
}

const sealed = typeMessage | flagEncrypted | flagAuthenticated

// reply is a genuine-looking packet with message m.
func (sh *shadow) reply(m message) []byte {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.wrap(sealed, sh.seq, sh.encrypt(pad(m)), true)
}
