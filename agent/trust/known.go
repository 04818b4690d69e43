// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/x509"
	"fmt"
	"time"
)

// Known is what a fleet knows beside a participant's files: the authorities that it runs
// itself, and the certificates that are worth nothing any more. It is never changed; the
// nil Known knows nothing.
type Known struct {
	hosts []*x509.Certificate // they stand for hosts only
	bad   map[string]string   // reason by serial
	roots *x509.CertPool      // of hosts
}

// NewKnown takes authorities that may stand for hosts, and for nobody else, and why each
// revoked serial is (see Serial). It keeps both.
func NewKnown(hosts []*x509.Certificate, revoked map[string]string) *Known {
	k := &Known{hosts: hosts, bad: revoked, roots: x509.NewCertPool()}
	for _, c := range hosts {
		k.roots.AddCert(c)
	}
	return k
}

// Know replaces what is known beside the files, from the next handshake and the next call
// of Client on. Connections that are up are the caller's to look at again.
func (s *Source) Know(k *Known) { s.known.Store(k) }

// Serial is a certificate's serial number as lists of revoked ones have it: hexadecimal.
func Serial(c *x509.Certificate) string { return fmt.Sprintf("%x", c.SerialNumber) }

// revoked refuses a certificate that is on the list.
func (k *Known) revoked(c *x509.Certificate) error {
	if k == nil {
		return nil
	}
	if why, found := k.bad[Serial(c)]; found {
		return refuse(Revoked, "certificate %s, serial %s, is revoked: %s", subject(c), Serial(c), why)
	}
	return nil
}

// Revoked says whether the certificate that a peer has shown was revoked since; nil: it was not.
func (s *Source) Revoked(shown []*x509.Certificate) error {
	if len(shown) == 0 {
		return nil
	}
	return s.known.Load().revoked(shown[0])
}

// signed says whether one of the fleet's own authorities stands for what was shown.
func (k *Known) signed(shown []*x509.Certificate, at time.Time, usage x509.ExtKeyUsage) bool {
	if k == nil || len(k.hosts) == 0 {
		return false
	}
	return (&material{roots: k.roots}).chain(shown, at, usage) == nil
}

// pool is all authorities whose certificates a door may be shown.
func (k *Known) pool(m *material) *x509.CertPool {
	if k == nil || len(k.hosts) == 0 {
		return m.roots
	}
	all := m.roots.Clone()
	for _, c := range k.hosts {
		all.AddCert(c)
	}
	return all
}
