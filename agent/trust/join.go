// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// JoinName is the name that a host without a certificate asks a door for. Behind it is the
// enrolment alone; no name server knows it.
const JoinName = "join.holdfast.invalid"

// Token is a secret of 256 random bits with a name. Only Hash is kept by those who check
// it: nobody can try so many, so that a slow hash would protect nothing.
type Token struct {
	ID     string // names it in lists; not secret
	Secret string
}

const tokenIDBytes, tokenBytes = 6, 32

// NewToken makes a random token.
func NewToken() Token {
	b := make([]byte, tokenIDBytes+tokenBytes)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return Token{hex.EncodeToString(b[:tokenIDBytes]), base64.RawURLEncoding.EncodeToString(b[tokenIDBytes:])}
}

// Hash is what is kept of a token.
func (t Token) Hash() string {
	sum := sha256.Sum256([]byte(t.Secret))
	return hex.EncodeToString(sum[:])
}

// Is says whether it is the token that a hash was kept of, in a time that tells nothing.
func (t Token) Is(hash string) bool {
	return subtle.ConstantTimeCompare([]byte(t.Hash()), []byte(hash)) == 1
}

var tokenForm = regexp.MustCompile(`^([0-9a-f]{12})\.([A-Za-z0-9_-]{43})$`)

const (
	bearerPrefix = "hft."
	joinPrefix   = "hfj."
)

// Bearer is how an operator's token is written.
func (t Token) Bearer() string { return bearerPrefix + t.ID + "." + t.Secret }

// ParseBearer reads an operator's token. The error repeats nothing of it.
func ParseBearer(s string) (Token, error) {
	rest, ours := strings.CutPrefix(s, bearerPrefix)
	m := tokenForm.FindStringSubmatch(rest)
	if !ours || m == nil {
		return Token{}, fmt.Errorf("token: not of the form %sID.SECRET", bearerPrefix)
	}
	return Token{m[1], m[2]}, nil
}

// JoinToken lets one host ask once for its first certificate. Pin names the authority of
// the workers' certificates, so that the host knows whom it shows the secret.
type JoinToken struct {
	Token
	Pin string
}

// String is the token as it is handed to a host. It is a secret.
func (t JoinToken) String() string { return joinPrefix + t.ID + "." + t.Secret + "." + t.Pin }

var pinForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ParseJoinToken is the inverse of String. The error repeats nothing of it.
func ParseJoinToken(s string) (JoinToken, error) {
	rest, ours := strings.CutPrefix(strings.TrimSpace(s), joinPrefix)
	i := strings.LastIndexByte(rest, '.')
	if !ours || i < 0 {
		return JoinToken{}, fmt.Errorf("join token: not of the form %sID.SECRET.AUTHORITY", joinPrefix)
	}
	m := tokenForm.FindStringSubmatch(rest[:i])
	if m == nil || !pinForm.MatchString(rest[i+1:]) {
		return JoinToken{}, fmt.Errorf("join token: not of the form %sID.SECRET.AUTHORITY", joinPrefix)
	}
	return JoinToken{Token{m[1], m[2]}, rest[i+1:]}, nil
}

// Pin names an authority by its public key: SHA-256, in hexadecimal.
func Pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Pin names the authority that has signed the own certificate.
func (s *Source) Pin() (string, error) {
	m := s.material()
	for _, c := range m.cas {
		if m.leaf.CheckSignatureFrom(c) == nil {
			return Pin(c), nil
		}
	}
	return "", errors.New("find authority of the own certificate: it is signed by an intermediate one, which no host can be told of: name its root in the CA file and sign by it")
}

// Authorities are those of the CA file, in DER.
func (s *Source) Authorities() (all [][]byte) {
	for _, c := range s.material().cas {
		all = append(all, c.Raw)
	}
	return all
}

// withAuthorities is the own certificate followed by all authorities: who has only a pin
// needs to see them.
func (m *material) withAuthorities() tls.Certificate {
	p := m.pair
	p.Certificate = append([][]byte(nil), p.Certificate...)
	for _, c := range m.cas {
		p.Certificate = append(p.Certificate, c.Raw)
	}
	return p
}

// Joiner is the configuration of a client that has nothing but a pin: it believes a worker
// for the name that is dialled whose certificate the pinned authority has signed, and
// sends nothing before it does.
func Joiner(pin, name string, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: JoinName,
		InsecureSkipVerify: true, // the check below does all of it, by the pin
		VerifyConnection: func(cs tls.ConnectionState) error {
			shown := cs.PeerCertificates
			if len(shown) == 0 {
				return refuse(NoCertificate, "no certificate was shown")
			}
			for _, c := range shown[1:] {
				if !c.IsCA || Pin(c) != pin {
					continue
				}
				s := &Source{c: Config{Now: now}, fixed: true}
				m := &material{roots: x509.NewCertPool()}
				m.roots.AddCert(c)
				s.present.Store(m)
				return s.server(shown, Peer{Role: Worker, Name: name})
			}
			return refuse(ForeignCA, "none of the authorities that were shown is the one that the join token names")
		},
	}
}

// OpenCA makes a Source for a client that proves who it is in another way than by a
// certificate: it believes the authorities in a file, which is read once.
func OpenCA(file, field string, now func() time.Time) (*Source, error) {
	m := &material{}
	if file == "" {
		return nil, fmt.Errorf("%s: empty, without it nobody can be believed", field)
	}
	if err := m.readCA(file); err != nil {
		return nil, fmt.Errorf("%s %s: %w", field, file, err)
	}
	s := &Source{c: Config{Now: now}, fixed: true}
	s.present.Store(m)
	s.tickets.Store(newTickets())
	return s, nil
}
