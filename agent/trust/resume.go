// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"time"
)

// After a storm all agents of a worker come back at once. A handshake that resumes an earlier
// one costs the door no signature and no chain of certificates on the wire. It proves no more
// and no less: whose certificate was shown is in the ticket, and counts against the authorities
// and the clock of that moment (crypto/tls shakes hands in full where it does not hold any more)
// and against revocations (Door) like one that is shown now.

// ticketLife is how long a ticket is good for, at most twice that.
const ticketLife = 12 * time.Hour

// cachedPeers is how many peers' tickets a client keeps.
const cachedPeers = 16

// ticketPeriod numbers the times for which there is one key.
func ticketPeriod(now time.Time) int64 { return now.UnixNano() / int64(ticketLife) }

// ticketKeys are a door's for a period and for the one before. They come from its own key, so that
// the next process of a worker takes the tickets of this one; who has that key is the worker.
func (m *material) ticketKeys(period int64) ([][32]byte, error) {
	own, err := x509.MarshalPKCS8PrivateKey(m.pair.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("derive keys of session tickets: %w", err)
	}
	defer clear(own)
	keys := make([][32]byte, 2)
	for i := range keys {
		h := hmac.New(sha256.New, own)
		_, _ = h.Write(binary.BigEndian.AppendUint64([]byte("holdfast session tickets "), uint64(period-int64(i)))) // a hash takes all
		h.Sum(keys[i][:0])
	}
	return keys, nil
}

// tickets are a client's, each for one use: one that is refused is not shown again.
type tickets struct{ tls.ClientSessionCache }

func newTickets() *tickets { return &tickets{tls.NewLRUClientSessionCache(cachedPeers)} }

// Get implements tls.ClientSessionCache.
func (t *tickets) Get(peer string) (*tls.ClientSessionState, bool) {
	s, ok := t.ClientSessionCache.Get(peer)
	if ok {
		t.Put(peer, nil)
	}
	return s, ok && s != nil
}
