// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"crypto/x509"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// authorityRecord is the value of authorities/<id>.
type authorityRecord struct {
	V      int       `json:"v"`
	Cert   []byte    `json:"cert"`   // DER
	Sealed string    `json:"sealed"` // its key, PKCS #8 in DER, with the key of the record as additional data
	Signs  time.Time `json:"signs"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

// joinRecord is the value of joins/<id>.
type joinRecord struct {
	V       int       `json:"v"`
	Hash    string    `json:"hash"`
	Host    string    `json:"host"`
	Expires time.Time `json:"expires"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Reason  string    `json:"reason,omitempty"`
	Used    time.Time `json:"used,omitzero"`
	Key     string    `json:"key,omitempty"` // fingerprint of the key that has used it
}

// certRecord is the value of certs/<serial>.
type certRecord struct {
	V         int       `json:"v"`
	Identity  string    `json:"identity"`
	Authority string    `json:"authority"`
	How       string    `json:"how"`
	At        time.Time `json:"at"`
	NotAfter  time.Time `json:"notAfter"`
}

// revokedRecord is the value of revoked/<serial>.
type revokedRecord struct {
	V        int       `json:"v"`
	Identity string    `json:"identity,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	By       string    `json:"by"`
	At       time.Time `json:"at"`
	NotAfter time.Time `json:"notAfter,omitzero"` // zero: not known, kept for good
}

// tokenRecord is the value of tokens/<id>.
type tokenRecord struct {
	V       int       `json:"v"`
	Hash    string    `json:"hash"`
	Name    string    `json:"name"`
	Role    v1.Role   `json:"role"`
	Expires time.Time `json:"expires"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Reason  string    `json:"reason,omitempty"`
}

// trustPrefixes are mirrored by every worker: each handshake and request asks for them.
var trustPrefixes = []string{leases.AuthoritiesPrefix, leases.RevokedPrefix, leases.TokensPrefix}

// trusted is this worker's copy of whom the fleet trusts beside the certificate files. It
// is written by the mirror's goroutine and read by all.
type trusted struct {
	changed chan struct{} // holds one token when authorities or revocations are others

	mu          sync.RWMutex
	authorities map[string]versioned[authorityRecord]
	revoked     map[string]versioned[revokedRecord]
	tokens      map[string]versioned[tokenRecord]
}

func newTrusted() *trusted {
	return &trusted{
		changed: make(chan struct{}, 1), authorities: map[string]versioned[authorityRecord]{},
		revoked: map[string]versioned[revokedRecord]{}, tokens: map[string]versioned[tokenRecord]{},
	}
}

// apply takes one change of the mirror. A record that cannot be read leaves the one
// before it in place; a revocation that cannot be read revokes all the same.
func (t *trusted) apply(c leases.Change) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id, ok := strings.CutPrefix(c.Key, leases.AuthoritiesPrefix); ok {
		err = put(t.authorities, id, c)
	} else if id, ok := strings.CutPrefix(c.Key, leases.TokensPrefix); ok {
		return put(t.tokens, id, c)
	} else if serial, ok := strings.CutPrefix(c.Key, leases.RevokedPrefix); ok {
		if err = put(t.revoked, serial, c); err != nil {
			t.revoked[serial] = versioned[revokedRecord]{c.KV.ModRevision, revokedRecord{Reason: "by a record that cannot be read"}}
		}
	}
	select {
	case t.changed <- struct{}{}:
	default:
	}
	return err
}

// known is what handshakes are to know.
func (t *trusted) known() *trust.Known {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var all []*x509.Certificate
	for _, id := range slices.Sorted(maps.Keys(t.authorities)) {
		if c, err := x509.ParseCertificate(t.authorities[id].Val.Cert); err == nil {
			all = append(all, c)
		}
	}
	bad := make(map[string]string, len(t.revoked))
	for serial, r := range t.revoked {
		bad[serial] = orElse(r.Val.Reason, "no reason was given")
	}
	return trust.NewKnown(all, bad)
}

// list returns the authorities, the one that has signed from the latest time on first.
func (t *trusted) list() (ids []string, all map[string]versioned[authorityRecord]) {
	t.mu.RLock()
	all = maps.Clone(t.authorities)
	t.mu.RUnlock()
	ids = slices.Collect(maps.Keys(all))
	slices.SortFunc(ids, func(a, b string) int {
		if d := all[b].Val.Signs.Compare(all[a].Val.Signs); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return ids, all
}

// signer is the authority that signs now; ok is false when there is none.
func (t *trusted) signer(now time.Time) (id string, rec authorityRecord, ok bool) {
	ids, all := t.list()
	for _, id := range ids {
		if !all[id].Val.Signs.After(now) {
			return id, all[id].Val, true
		}
	}
	return "", authorityRecord{}, false
}

// maxRevokedTold bounds what agents are told of: the workers' certificates that were revoked
// last. Those that ran out meanwhile are forgotten by the retention of trust records.
const maxRevokedTold = 1000

// revokedWorkers are the revoked certificates that are, or may be, workers': agents are told.
func (t *trusted) revokedWorkers() (out []*agentpb.RevokedCertificate) {
	t.mu.RLock()
	all := maps.Clone(t.revoked)
	t.mu.RUnlock()
	serials := slices.Collect(maps.Keys(all))
	slices.SortFunc(serials, func(a, b string) int { return all[b].Val.At.Compare(all[a].Val.At) })
	for _, serial := range serials {
		r := all[serial].Val
		if id, err := trust.ParseURI("holdfast://" + r.Identity); err == nil && id.Role != trust.Worker || len(out) == maxRevokedTold {
			continue
		}
		c := &agentpb.RevokedCertificate{Serial: serial, Reason: r.Reason}
		if !r.NotAfter.IsZero() {
			c.NotAfterUnixS = r.NotAfter.Unix()
		}
		out = append(out, c)
	}
	return out
}

// Bearer implements api.Tokens.
func (t *trusted) Bearer(token trust.Token, now time.Time) (api.Caller, bool) {
	t.mu.RLock()
	rec, found := t.tokens[token.ID]
	t.mu.RUnlock()
	if !found || !token.Is(rec.Val.Hash) || !now.Before(rec.Val.Expires) {
		return api.Caller{}, false
	}
	return api.Caller{Name: "token/" + rec.Val.Name, Role: rec.Val.Role, By: "token", Token: token.ID, Expires: rec.Val.Expires}, true
}

func decodeAs[T any](kv leases.KV) (val T, err error) {
	err = kv.Decode(&val)
	return val, err
}
