// SPDX-License-Identifier: Apache-2.0

package bmc

import "testing"

// Whatever arrives, Handle does not panic, sends a bounded amount back, and executes
// nothing: the fuzzer has no password. The second input is signed with the session's
// keys before it is sent, so that the code behind the checks is reached as well.
func FuzzHandle(f *testing.F) {
	r := newRig(f)
	c := newConsole(r.BMC, 17, alice, Administrator)
	for _, step := range []func() error{c.open, c.rakp1, c.rakp3} {
		if err := step(); err != nil {
			f.Fatal(err)
		}
		f.Add(c.lastSent, request(netFnApp, 0x3d, 1, 0xff, 1, 2, 3, 4))
	}
	f.Add(c.packet(netFnChassis, 1), request(netFnChassis, 0x02, 1, 0))
	f.Add(plainV15(request(netFnApp, 0x38, 1, 0x8e, 4)), request(netFnApp, 0x3c, 1, 0, 0, 0, 0, 1))
	f.Add([]byte{6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 1, 0, 0}, []byte{})
	f.Add(plainPlus(0, request(netFnApp, 0x54, 1, 0x0e, 0, 0xbf)), request(netFnChassis, 0x04, 1, 5, 1))

	f.Fuzz(func(t *testing.T, datagram, inner []byte) {
		r := newRig(t)
		c := r.in(t, 3, alice)
		r.set(t, Faults{Forged: 3, Short: 3, BadPadding: 3, Garbage: 3, Replayed: 3, DuplicateAnswers: 50})
		if answers, _ := r.Handle(c.from, datagram); len(answers) > 17 {
			t.Errorf("%d answers", len(answers))
		}
		if len(r.Truth()) != 0 {
			t.Errorf("executed without a key: %+v", r.Truth())
		}
		if len(inner) < 512 {
			if answers, _ := r.Handle(c.from, c.s.wrap(inner)); len(answers) > 17 {
				t.Errorf("%d answers", len(answers))
			}
		}
		if live, half := r.Sessions(); live+half > 4 {
			t.Errorf("%d sessions in 4 slots", live+half)
		}
	})
}
