// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Reason is why a peer was refused; metrics and logs name it.
type Reason string

// The reasons.
const (
	NoCertificate Reason = "no-certificate"
	Expired       Reason = "expired"
	NotYetValid   Reason = "not-yet-valid"
	ForeignCA     Reason = "foreign-ca"
	NoIdentity    Reason = "no-identity" // ours, but it names nobody
	WrongRole     Reason = "wrong-role"
	WrongName     Reason = "wrong-name"
	WrongUse      Reason = "wrong-use"  // e.g. a client's certificate shown by a server
	Revoked       Reason = "revoked"    // its serial is on the fleet's list
	PlainText     Reason = "plaintext"  // it does not speak TLS
	RefusedUs     Reason = "refused-us" // it does not like our certificate
	Broken        Reason = "broken"     // everything else
)

// PeerError is a peer that was refused.
type PeerError struct {
	Reason Reason
	text   string
}

// Error says it in words, with the certificate's name and times.
func (e *PeerError) Error() string { return e.text }

func refuse(r Reason, format string, args ...any) *PeerError {
	return &PeerError{r, fmt.Sprintf(format, args...)}
}

// Peer is who must be at the other end of a connection that we open.
type Peer struct {
	Role Role
	ID   string // if known: exactly this one
	Name string // else: host name or address we dial, which the certificate must carry
}

// Client checks the certificates that a client showed, as it showed them, and returns
// whose they are. The error is a *PeerError.
func (s *Source) Client(shown []*x509.Certificate, accept ...Role) (Identity, error) {
	return s.material().peer(shown, s.c.now(), x509.ExtKeyUsageClientAuth, accept, s.known.Load())
}

// server checks what a server showed.
func (s *Source) server(shown []*x509.Certificate, want Peer) error {
	id, err := s.material().peer(shown, s.c.now(), x509.ExtKeyUsageServerAuth, []Role{want.Role}, s.known.Load())
	switch {
	case err != nil:
		return err
	case want.ID != "" && id.ID != want.ID:
		return refuse(WrongName, "certificate is that of %s, expected is %s", id, Identity{want.Role, want.ID})
	case want.ID == "" && shown[0].VerifyHostname(want.Name) != nil:
		return refuse(WrongName, "certificate %s is for %s, not for %s", id, names(shown[0]), want.Name)
	}
	return nil
}

// SpeaksFor says whether an identity may speak for a host: only the host's own may.
func (i Identity) SpeaksFor(host string) error {
	if i != (Identity{Host, host}) {
		return refuse(WrongName, "certificate is that of %s, it may not speak for host %.70q", i, host)
	}
	return nil
}

func (m *material) peer(shown []*x509.Certificate, at time.Time, usage x509.ExtKeyUsage, accept []Role, k *Known) (Identity, error) {
	if len(shown) == 0 {
		return Identity{}, refuse(NoCertificate, "no certificate was shown")
	}
	byFleet := false
	err := m.chain(shown, at, usage)
	if err != nil && k.signed(shown, at, usage) {
		byFleet, err = true, nil
	}
	if err == nil {
		err = k.revoked(shown[0])
	}
	if err != nil {
		return Identity{}, err
	}
	id, err := Of(shown[0])
	if err != nil {
		return Identity{}, refuse(NoIdentity, "%v", err)
	}
	if byFleet && id.Role != Host {
		return Identity{}, refuse(WrongRole, "certificate is that of %s, and the fleet's own authority stands for hosts only", id)
	}
	if !slices.Contains(accept, id.Role) {
		var want []string
		for _, r := range accept {
			want = append(want, string(r))
		}
		return Identity{}, refuse(WrongRole, "certificate is that of %s, admitted here is the role %s", id, strings.Join(want, " or "))
	}
	return id, nil
}

// chain checks signatures, times and usage.
func (m *material) chain(shown []*x509.Certificate, at time.Time, usage x509.ExtKeyUsage) error {
	between := x509.NewCertPool()
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	_, err := shown[0].Verify(x509.VerifyOptions{Roots: m.roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
	return inWords(shown[0], at, err)
}

// inWords makes a PeerError of what crypto/x509 says of a certificate.
func inWords(c *x509.Certificate, at time.Time, err error) error {
	if err == nil {
		return nil
	}
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		if late := dates(invalid.Cert, at); late != nil {
			return late
		}
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return refuse(WrongUse, "certificate %s is not for this use: a server's needs the extended key usage server auth, a client's client auth", subject(c))
	case errors.As(err, &unknown):
		return refuse(ForeignCA, "certificate %s is signed by %.70q, which is not among the authorities", subject(c), c.Issuer.CommonName)
	}
	return refuse(Broken, "certificate %s: %s", subject(c), strings.TrimPrefix(err.Error(), "x509: "))
}

// dates says whether a certificate's time is now.
func dates(c *x509.Certificate, now time.Time) error {
	what := "certificate "
	if c.IsCA {
		what = "authority "
	}
	switch {
	case now.After(c.NotAfter):
		return refuse(Expired, "%s%s has expired at %s (%s ago)", what, subject(c), when(c.NotAfter), now.Sub(c.NotAfter).Round(time.Second))
	case now.Before(c.NotBefore):
		return refuse(NotYetValid, "%s%s is not valid before %s (in %s; are the clocks right?)", what, subject(c), when(c.NotBefore), c.NotBefore.Sub(now).Round(time.Second))
	}
	return nil
}

func when(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// names are the host names and addresses that a certificate is for.
func names(c *x509.Certificate) string {
	all := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return "no host name or address"
	}
	return strings.Join(all, ", ")
}
