// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

const (
	revokedFile = "revoked.json"
	// maxRevoked bounds what is remembered; workers tell of no more.
	maxRevoked = 1000
)

// distrust remembers which certificates of workers are worth nothing any more, in memory and
// in the state dir: a worker that was revoked is not the one that says so, and may be the
// first that is dialled after a restart.
type distrust struct {
	disk *lane // nil: its writes may take as long as they do
	name string

	mu      sync.Mutex
	revoked map[string]revokedCert
	open    map[*session]bool // whose worker has shown a certificate
}

type revokedCert struct {
	Reason   string    `json:"reason,omitempty"`
	NotAfter time.Time `json:"notAfter,omitzero"` // it may be forgotten then; zero: never
}

// revokedRecord is the file.
type revokedRecord struct {
	V       int                    `json:"v"`
	Revoked map[string]revokedCert `json:"revoked"` // by serial
}

// loadDistrust reads the memory; a damaged file is an error, as with the epochs.
func loadDistrust(dir string) (*distrust, error) {
	d := &distrust{name: filepath.Join(dir, revokedFile), revoked: map[string]revokedCert{}, open: map[*session]bool{}}
	b, err := readState(d.name)
	if err != nil {
		return nil, fmt.Errorf("read revoked certificates: %w", err)
	}
	if b == nil {
		return d, nil
	}
	var r revokedRecord
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("read revoked certificates %s: damaged (%w); remove it: workers tell of them again", d.name, err)
	}
	if r.V != 1 {
		return nil, fmt.Errorf("read revoked certificates %s: v is %d: this agent knows 1", d.name, r.V)
	}
	for serial, c := range r.Revoked {
		d.revoked[serial] = c
	}
	return d, nil
}

var serialForm = regexp.MustCompile(`^[0-9a-f]{1,64}$`)

// add takes note of what a worker says; it reports whether anything of it is new.
func (d *distrust) add(all []*agentpb.RevokedCertificate, now time.Time) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	news := false
	for _, c := range all {
		if _, had := d.revoked[c.GetSerial()]; had || !serialForm.MatchString(c.GetSerial()) || len(d.revoked) >= maxRevoked {
			continue
		}
		r := revokedCert{Reason: c.GetReason()}
		if s := c.GetNotAfterUnixS(); s != 0 {
			r.NotAfter = time.Unix(s, 0).UTC()
		}
		d.revoked[c.GetSerial()], news = r, true
	}
	if !news {
		return false, nil
	}
	for serial, c := range d.revoked {
		if !c.NotAfter.IsZero() && now.Sub(c.NotAfter) > 24*time.Hour { // clocks may differ
			delete(d.revoked, serial)
		}
	}
	b, err := json.MarshalIndent(revokedRecord{V: 1, Revoked: d.revoked}, "", "  ")
	if err == nil {
		err = keepState(d.disk, d.name, append(b, '\n'))
	}
	return true, err
}

// known is what handshakes are to know.
func (d *distrust) known() *trust.Known {
	d.mu.Lock()
	defer d.mu.Unlock()
	bad := make(map[string]string, len(d.revoked))
	for serial, c := range d.revoked {
		bad[serial] = c.Reason
	}
	return trust.NewKnown(nil, bad)
}

// believe makes src what this agent's handshakes go by.
func (a *Agent) believe(src *trust.Source) {
	src.Know(a.distrust.known())
	a.trust.Store(src)
}

// distrusts acts on a word of which certificates are revoked: no handshake accepts them from
// now on, and streams to who has shown one end.
func (a *Agent) distrusts(r *agentpb.Revoked) {
	d := a.distrust
	news, err := d.add(r.GetCertificates(), time.Now())
	if err != nil {
		a.opts.Logger.Warn("revoked certificates not kept", "cause", err)
	}
	certs := a.trust.Load()
	if !news || certs == nil {
		return
	}
	certs.Know(d.known())
	d.mu.Lock()
	defer d.mu.Unlock()
	for s := range d.open {
		s.leaveRevoked(certs)
	}
}

// shows notes what the worker at the other end has shown, for as long as the stream lives.
func (s *session) shows(certs []*x509.Certificate) {
	d, src := s.agent.distrust, s.agent.trust.Load()
	if len(certs) == 0 || src == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.shown = certs
	d.open[s] = true
	s.leaveRevoked(src) // it may have been revoked since the handshake
}

// leaveRevoked ends the stream if the worker's certificate is revoked. The caller holds the
// lock of the agent's distrust.
func (s *session) leaveRevoked(src *trust.Source) {
	if err := src.Revoked(s.shown); err != nil {
		s.cancel(fmt.Errorf("leave worker %s: %w", s.address, err))
	}
}

// hides forgets the stream.
func (s *session) hides() {
	s.agent.distrust.mu.Lock()
	defer s.agent.distrust.mu.Unlock()
	delete(s.agent.distrust.open, s)
}
