// SPDX-License-Identifier: Apache-2.0

package agentpb

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
)

// Sum is the hash of a list: of its addresses in order, its algorithm and its check
// interval. Both sides compute it, so that an agent whose file was edited is noticed.
func (l *List) Sum() string {
	var text []byte // thousands of lists are compared after each change of the membership
	for _, w := range l.GetWorkers() {
		text = append(append(text, w.GetAddress()...), ',')
	}
	text = append(append(append(text, '@'), l.GetAlgorithm()...), ';')
	sum := sha256.Sum256(strconv.AppendInt(text, l.GetCheckIntervalMs(), 10))
	return hex.EncodeToString(sum[:12])
}

// Sealed sets the hash and returns the list.
func (l *List) Sealed() *List {
	l.Hash = l.Sum()
	return l
}
