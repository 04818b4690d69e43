// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"hash"
)

// suite is a cipher suite: algorithm numbers of authentication, integrity and
// confidentiality (IPMI 2.0 §13.28 and table 22-20).
type suite struct{ id, auth, integrity, conf byte }

// suites holds what this BMC can compute. Only 3 and 17 are offered unless
// Config.Suites says otherwise; the weak ones serve downgrade tests (power.md §11.18).
var suites = []suite{
	{0, 0, 0, 0},
	{1, 1, 0, 0}, {2, 1, 1, 0}, {3, 1, 1, 1},
	{15, 3, 0, 0}, {16, 3, 4, 0}, {17, 3, 4, 1},
}

func suiteByID(id int) (suite, bool) {
	for _, s := range suites {
		if int(s.id) == id {
			return s, true
		}
	}
	return suite{}, false
}

// mac is the HMAC of the suite's RAKP algorithm over the parts, nil with RAKP-none.
func (s suite) mac(key []byte, parts ...[]byte) []byte {
	var h hash.Hash
	switch s.auth {
	case 1:
		h = hmac.New(sha1.New, key)
	case 3:
		h = hmac.New(sha256.New, key)
	default:
		return nil
	}
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// codeLen is the length of an integrity code: of packets, and of RAKP 4 by the
// authentication algorithm.
func (s suite) codeLen() int { return [...]int{1: 12, 4: 16}[s.integrity] }

func (s suite) rakp4Len() int { return [...]int{1: 12, 3: 16}[s.auth] }

// integrityCode signs a packet under K1, nil without an integrity algorithm.
func (s suite) integrityCode(k1, signed []byte) []byte {
	switch s.integrity {
	case 1:
		h := hmac.New(sha1.New, k1)
		h.Write(signed)
		return h.Sum(nil)[:12]
	case 4:
		h := hmac.New(sha256.New, k1)
		h.Write(signed)
		return h.Sum(nil)[:16]
	}
	return nil
}

// keys derives K1 and K2 from the session integrity key (IPMI 2.0 §13.32).
func (s suite) keys(sik []byte) (k1, k2 []byte) {
	return s.mac(sik, bytes.Repeat([]byte{1}, 20)), s.mac(sik, bytes.Repeat([]byte{2}, 20))
}

// record lists the suite in the answer to Get Channel Cipher Suites (IPMI 2.0 §22.15.1).
func (s suite) record() []byte { return []byte{0xc0, s.id, s.auth, 0x40 | s.integrity, 0x80 | s.conf} }
