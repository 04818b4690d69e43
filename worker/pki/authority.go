// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
)

// How long what a fleet's own authority is concerned with is good for.
const (
	FleetLife = 2 * 365 * 24 * time.Hour // of the authority
	HostLife  = 24 * time.Hour           // of a host's certificate
)

// maxCSR bounds a request for a certificate, in bytes.
const maxCSR = 8 << 10

// NewFleetAuthority makes an authority that can stand for hosts alone: whoever checks its
// certificates refuses every other identity by its name constraints. The caller clears
// the key, PKCS #8 in DER.
func NewFleetAuthority(name string, now time.Time, life time.Duration) (cert, key []byte, err error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-early), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		PermittedDNSDomainsCritical: true, PermittedURIDomains: []string{string(trust.Host)},
		ExcludedDNSDomains: []string{""},
	}
	if cert, err = x509.CreateCertificate(rand.Reader, t, t, &priv.PublicKey, priv); err != nil {
		return nil, nil, fmt.Errorf("sign certificate: %w", err)
	}
	if key, err = x509.MarshalPKCS8PrivateKey(priv); err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return cert, key, nil
}

// RequestKey reads a request for a certificate (PKCS #10 in DER) and returns the key that
// signed it, with its fingerprint; everything else in it is passed over.
func RequestKey(csr []byte) (key crypto.PublicKey, fingerprint string, err error) {
	if len(csr) > maxCSR {
		return nil, "", fmt.Errorf("csr: %d bytes, allowed are %d", len(csr), maxCSR)
	}
	r, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, "", errors.New("csr: not a certificate request in DER")
	}
	switch k := r.PublicKey.(type) { // before the signature: others may cost much to check
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return nil, "", fmt.Errorf("csr: curve %s, allowed are P-256 and P-384", k.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return nil, "", fmt.Errorf("csr: key of type %T, allowed are ECDSA and Ed25519", r.PublicKey)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, "", errors.New("csr: its signature is not that of its key")
	}
	sum := sha256.Sum256(r.RawSubjectPublicKeyInfo)
	return r.PublicKey, hex.EncodeToString(sum[:]), nil
}

// SignHost signs a client certificate of a host for a key, not beyond the authority's end.
// authorityKey is PKCS #8 in DER.
func SignHost(authority, authorityKey []byte, host string, key crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	id := trust.Identity{Role: trust.Host, ID: host}
	if err := id.Check(); err != nil {
		return nil, badOption("host: %v", err)
	}
	ca, err := x509.ParseCertificate(authority)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	signer, err := x509.ParsePKCS8PrivateKey(authorityKey)
	if err != nil {
		return nil, errors.New("read authority: it holds no PKCS #8 key")
	}
	u, err := url.Parse(id.URI())
	if err != nil {
		return nil, fmt.Errorf("write identity %s: %w", id, err)
	}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: host}, URIs: []*url.URL{u}, NotBefore: now.Add(-early), NotAfter: now.Add(HostLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if t.NotAfter.After(ca.NotAfter) {
		t.NotAfter = ca.NotAfter
	}
	if !t.NotAfter.After(now) {
		return nil, fmt.Errorf("sign certificate of %s: the authority has ended at %s", id, ca.NotAfter.UTC().Format(time.RFC3339))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca, key, signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", id, err)
	}
	return x509.ParseCertificate(der)
}
