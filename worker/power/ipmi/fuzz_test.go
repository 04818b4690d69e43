// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/worker/power"
)

// FuzzGuard: no datagram panics the guard in any step, and in an active session none is
// let in that was not made with the session's keys.
func FuzzGuard(f *testing.F) {
	f.Add(byte(0), false, handshake(typeOpenResp, make([]byte, 36)))
	f.Add(byte(1), false, handshake(typeRAKP2, make([]byte, 72)))
	f.Add(byte(2), false, handshake(typeRAKP4, make([]byte, 24)))
	f.Add(byte(3), false, append(rmcpHeader[:], 0x06, sealed, 4, 3, 2, 1, 1, 0, 0, 0, 3, 0, 1, 2, 3))
	f.Add(byte(3), true, make([]byte, 32))
	f.Add(byte(3), true, pad(message{0x81, 0x04, 0x7b, 0x20, 0x04, 0x01, 0, 0x21, 0, 0, 0xba}))
	f.Fuzz(func(t *testing.T, at byte, signed bool, p []byte) {
		for _, su := range suites {
			g := newGuard(nil, su, "operator", password, 3, power.Limits{})
			g.s.ours, g.s.bmc, g.tag = 0x01020304, 0x05060708, 0
			g.check = g.s.derive()
			g.step = step(at % 4)
			op := &operation{request: request{kind: []byte{typeOpenReq, typeRAKP1, typeRAKP3, typeMessage}[g.step], cmd: cmdStatus},
				deadline: time.Now().Add(time.Second), sent: 1, sentMsg: message{0x20, 0x00, 0xe0, 0x81, 0x04, 0x01, 0x7a}}
			if signed && g.step == stepActive {
				sh := &shadow{s: g.s}
				if len(p)%16 == 0 && len(p) > 0 {
					g.admit(op, sh.wrap(sealed, 1, sh.encrypt(p), true))
				}
				g.admit(op, sh.wrap(sealed, 2, p, true))
			}
			active := g.step == stepActive
			if g.admit(op, p) && active {
				t.Errorf("let in without keys: %x", p)
			}
		}
	})
}
