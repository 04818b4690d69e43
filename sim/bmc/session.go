// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// phase is how far a session's setup has come.
type phase uint8

const (
	opened phase = iota // Open Session answered, RAKP 1 awaited
	keyed               // RAKP 2 answered, RAKP 3 awaited
	active
)

// session is one slot of the table. Half-open ones occupy a slot too, as on real BMCs.
type session struct {
	phase   phase
	id      uint32 // ours
	console uint32 // the client's
	handle  byte   // 1..slots
	remote  netip.AddrPort
	seen    time.Time // last valid packet
	open    []byte    // the Open Session request, to know a retransmission
	suite   suite
	limit   Privilege // the most this session may ask for
	level   Privilege // operating level
	user    User
	userID  byte

	consoleRand, rand []byte
	role              byte
	sik, k1           []byte
	block             cipher.Block // AES with K2

	in  window
	out uint32 // sequence number of the last packet sent
}

// window drops repeated and far-away sequence numbers: 15 ahead, 16 behind
// (IPMI 2.0 §6.12.13). Bit n of seen is set when high-n has been accepted.
type window struct{ high, seen uint32 }

func (w *window) accept(seq uint32) bool {
	if seq == 0 {
		return false // reserved for packets outside a session
	}
	if ahead := int32(seq - w.high); ahead > 0 {
		if ahead > 15 {
			return false
		}
		w.high, w.seen = seq, w.seen<<ahead|1
		return true
	}
	back := w.high - seq
	if back > 16 || w.seen&(1<<back) != 0 {
		return false
	}
	w.seen |= 1 << back
	return true
}

// activate derives the keys and lets commands in.
func (s *session) activate(now time.Time) {
	k1, k2 := s.suite.keys(s.sik)
	s.k1 = k1
	if s.suite.conf == 1 {
		s.block, _ = aes.NewCipher(k2[:16]) // 16 bytes are always a key
	}
	s.phase, s.seen = active, now
	s.in = window{seen: ^uint32(0)} // nothing before the first number is acceptable
	s.level = min(UserLevel, s.limit)
}

// unwrap checks and decrypts a packet of the session; false means drop it.
func (s *session) unwrap(k packet) ([]byte, bool) {
	if k.v15 || k.authenticated != (s.suite.integrity != 0) || k.encrypted != (s.suite.conf != 0) {
		return nil, false
	}
	if k.authenticated {
		n := s.suite.codeLen()
		if len(k.trailer) < n+2 {
			return nil, false
		}
		cut := len(k.signed) - n
		pad, next := int(k.signed[cut-2]), k.signed[cut-1]
		if next != 0x07 || pad != len(k.trailer)-n-2 ||
			!hmac.Equal(s.suite.integrityCode(s.k1, k.signed[:cut]), k.signed[cut:]) {
			return nil, false
		}
	}
	body := k.body
	if k.encrypted {
		if len(body) < 2*aes.BlockSize || len(body)%aes.BlockSize != 0 {
			return nil, false
		}
		plain := make([]byte, len(body)-aes.BlockSize)
		cipher.NewCBCDecrypter(s.block, body[:aes.BlockSize]).CryptBlocks(plain, body[aes.BlockSize:])
		pad := int(plain[len(plain)-1])
		if pad >= aes.BlockSize {
			return nil, false
		}
		end := len(plain) - 1 - pad
		for i, c := range plain[end : len(plain)-1] {
			if c != byte(i+1) {
				return nil, false
			}
		}
		body = plain[:end]
	}
	return body, s.in.accept(k.seq)
}

// wrap signs and encrypts a message for the client, as the suite says.
func (s *session) wrap(msg []byte) []byte {
	if s.suite.conf == 0 {
		return s.frame(msg)
	}
	pad := (aes.BlockSize - (len(msg)+1)%aes.BlockSize) % aes.BlockSize
	plain := slices.Clone(msg)
	for i := range pad {
		plain = append(plain, byte(i+1))
	}
	return s.frame(s.encrypt(append(plain, byte(pad))))
}

// encrypt takes whole blocks and returns the vector and the ciphertext.
func (s *session) encrypt(plain []byte) []byte {
	out := make([]byte, aes.BlockSize+len(plain))
	random(out[:aes.BlockSize])
	cipher.NewCBCEncrypter(s.block, out[:aes.BlockSize]).CryptBlocks(out[aes.BlockSize:], plain)
	return out
}

// frame puts the session header before a body and the integrity trailer after it.
func (s *session) frame(body []byte) []byte {
	s.out++
	if s.out == 0 {
		s.out = 1
	}
	var kind byte = payloadIPMI
	if s.suite.conf != 0 {
		kind |= flagEncrypted
	}
	if s.suite.integrity == 0 {
		return append(header(kind, s.console, s.out, len(body)), body...)
	}
	out := append(header(kind|flagAuthenticated, s.console, s.out, len(body)), body...)
	pad := 0
	for ; (len(out)-len(rmcpIPMI)+2)%4 != 0; pad++ { // a multiple of four up to the code
		out = append(out, 0xff)
	}
	out = append(out, byte(pad), 0x07)
	return append(out, s.suite.integrityCode(s.k1, out[len(rmcpIPMI):])...)
}

// expire frees the slots of sessions that fell silent.
func (b *BMC) expire(now time.Time) {
	b.sessions = slices.DeleteFunc(b.sessions, func(s *session) bool {
		return now.Sub(s.seen) > b.cfg.SessionTimeout
	})
}

func (b *BMC) find(match func(*session) bool) *session {
	if i := slices.IndexFunc(b.sessions, match); i >= 0 {
		return b.sessions[i]
	}
	return nil
}

func (b *BMC) byID(id uint32) *session {
	return b.find(func(s *session) bool { return s.id == id })
}

func (b *BMC) drop(gone *session) {
	if gone.phase == active { // nobody repeats the setup of a session that was used
		b.setups = slices.DeleteFunc(b.setups, func(e exchange) bool { return e.from == gone.remote })
		if len(b.setups) == 0 {
			b.setups = nil
		}
	}
	b.sessions = slices.DeleteFunc(b.sessions, func(s *session) bool { return s == gone })
}

// admit takes a free slot, or returns nil.
func (b *BMC) admit(from netip.AddrPort, now time.Time) *session {
	if len(b.sessions) >= min(b.cfg.Slots, 255) { // a handle is a byte
		return nil
	}
	s := &session{remote: from, seen: now}
	for s.id == 0 || b.byID(s.id) != nil {
		var id [4]byte
		random(id[:])
		s.id = binary.LittleEndian.Uint32(id[:])
	}
	for s.handle = 1; b.find(func(o *session) bool { return o.handle == s.handle }) != nil; {
		s.handle++
	}
	b.sessions = append(b.sessions, s)
	return s
}

// random fills p for nonces, vectors and identifiers: never from the seed, so that
// two BMCs of one seed, or one started twice, share no session.
func random(p []byte) { _, _ = rand.Read(p) } // never fails, by contract of crypto/rand
