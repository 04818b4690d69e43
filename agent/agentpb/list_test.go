// SPDX-License-Identifier: Apache-2.0

package agentpb

import "testing"

// Both sides compute the hash, of whatever version they are: it never changes.
func TestSumOfList(t *testing.T) {
	l := &List{Workers: []*Worker{{Id: "w1", Address: "127.0.0.1:1"}, {Id: "w2", Address: "127.0.0.1:2"}}, Algorithm: "ring", CheckIntervalMs: 60000}
	if got, want := l.Sealed().Hash, "7f8206aa4a3d19e7b475c10e"; got != want { // sha256 of "127.0.0.1:1,127.0.0.1:2,@ring;60000", 12 bytes of it
		t.Errorf("hash is %s, want %s", got, want)
	}
}
