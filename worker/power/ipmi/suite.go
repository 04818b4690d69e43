// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// suite is a cipher suite of the IPMI 2.0 specification, table 22-20. Only suites with
// authentication, integrity and encryption are known here; suite 0 does not exist for us.
type suite struct {
	id                 uint8
	auth, integ, crypt byte
	hash               func() hash.Hash
	codeLen            int // truncated integrity code and RAKP 4 check value
}

var suites = map[string]suite{
	"17": {17, 3, 4, 1, sha256.New, 16},
	"3":  {3, 1, 1, 1, sha1.New, 12},
}

// session is what the guard knows of one RMCP+ session; keys come from the RAKP
// exchange (IPMI 2.0 §13.31, §13.32) and the password.
type session struct {
	suite
	user  string
	kuid  [20]byte // password, zero-padded
	guid  [16]byte // managed system GUID of RAKP 2
	role  byte
	ours  uint32 // console session id, random
	bmc   uint32 // managed system session id
	crand [16]byte
	brand [16]byte

	k1, k2  []byte
	block   cipher.Block // AES with k2
	lastSeq uint32       // highest sequence number accepted from the BMC
}

func (s *session) mac(key []byte, parts ...[]byte) []byte {
	m := hmac.New(s.hash, key)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

// identity is the role, user name length and user name that close most RAKP codes.
func (s *session) identity() []byte {
	return append([]byte{s.role, byte(len(s.user))}, s.user...)
}

// rakp2 is the code that proves the BMC knows the password.
func (s *session) rakp2() []byte {
	return s.mac(s.kuid[:], le32(s.ours), le32(s.bmc), s.crand[:], s.brand[:], s.guid[:], s.identity())
}

// rakp3 is the code that proves that we do.
func (s *session) rakp3() []byte {
	return s.mac(s.kuid[:], s.brand[:], le32(s.ours), s.identity())
}

// derive computes the session keys and returns the RAKP 4 check value to expect.
func (s *session) derive() []byte {
	sik := s.mac(s.kuid[:], s.crand[:], s.brand[:], s.identity())
	constant := func(b byte) []byte {
		c := make([]byte, 20)
		for i := range c {
			c[i] = b
		}
		return c
	}
	s.k1, s.k2 = s.mac(sik, constant(1)), s.mac(sik, constant(2))
	s.block, _ = aes.NewCipher(s.k2[:16]) // 16 bytes are always a key
	return s.mac(sik, s.crand[:], le32(s.bmc), s.guid[:])[:s.codeLen]
}

// signed reports whether code is the integrity code of data.
func (s *session) signed(data, code []byte) bool {
	return hmac.Equal(s.mac(s.k1, data)[:s.codeLen], code)
}

// seal appends the packet of a message: encrypted under a random vector and signed
// (IPMI 2.0 §13.6, §13.28, §13.29).
func (s *session) seal(out []byte, seq uint32, m message) []byte {
	pad := (aes.BlockSize - (len(m)+1)%aes.BlockSize) % aes.BlockSize
	size := aes.BlockSize + len(m) + pad + 1
	out = append(out, rmcpHeader[:]...)
	out = append(out, 0x06, typeMessage|flagEncrypted|flagAuthenticated)
	out = binary.LittleEndian.AppendUint32(out, s.bmc)
	out = binary.LittleEndian.AppendUint32(out, seq)
	out = binary.LittleEndian.AppendUint16(out, uint16(size))
	at := len(out)
	var vector [aes.BlockSize]byte
	_, _ = rand.Read(vector[:])
	out = append(append(out, vector[:]...), m...)
	for i := range pad {
		out = append(out, byte(i+1))
	}
	out = append(out, byte(pad))
	plain := out[at+aes.BlockSize:]
	cipher.NewCBCEncrypter(s.block, vector[:]).CryptBlocks(plain, plain)
	trail := (4 - (len(out)-rmcpLen+2)%4) % 4
	for range trail {
		out = append(out, 0xff)
	}
	out = append(out, byte(trail), 0x07)
	return append(out, s.mac(s.k1, out[rmcpLen:])[:s.codeLen]...)
}

// open decrypts a payload (IPMI 2.0 §13.29) and checks length and padding.
func (s *session) open(payload []byte) (message []byte, ok bool) {
	if s.block == nil || len(payload) < 2*aes.BlockSize || len(payload)%aes.BlockSize != 0 {
		return nil, false
	}
	plain := make([]byte, len(payload)-aes.BlockSize)
	cipher.NewCBCDecrypter(s.block, payload[:aes.BlockSize]).CryptBlocks(plain, payload[aes.BlockSize:])
	end := len(plain) - 1
	pad := int(plain[end])
	if pad >= aes.BlockSize || pad > end {
		return nil, false
	}
	for i := range pad {
		if plain[end-pad+i] != byte(i+1) {
			return nil, false
		}
	}
	return plain[:end-pad], true
}

// wipe forgets all keys.
func (s *session) wipe() {
	clear(s.kuid[:])
	clear(s.k1)
	clear(s.k2)
	s.block = nil
}
