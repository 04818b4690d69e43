// SPDX-License-Identifier: Apache-2.0

package agentpb

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Sum is the hash of a list: of its addresses in order, its algorithm and its check
// interval. Both sides compute it, so that an agent whose file was edited is noticed.
func (l *List) Sum() string {
	h := sha256.New()
	for _, w := range l.GetWorkers() {
		fmt.Fprintf(h, "%s,", w.GetAddress())
	}
	fmt.Fprintf(h, "@%s;%d", l.GetAlgorithm(), l.GetCheckIntervalMs())
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// Sealed sets the hash and returns the list.
func (l *List) Sealed() *List {
	l.Hash = l.Sum()
	return l
}
