// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// certificate makes the n-th self-signed certificate of a seed: the same each time, so
// that a fingerprint can be written down.
func certificate(seed uint64, n int, addr netip.Addr) (tls.Certificate, error) {
	raw := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(fmt.Sprint("key ", n)), seed))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw[:])
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make key: %w", err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(int64(n) + 1), Subject: pkix.Name{CommonName: "simulated Redfish service"},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{addr.AsSlice()}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(nil, ca, ca, key.Public(), key) // no randomness: RFC 6979
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Fingerprint is the SHA-256 of the certificate in hex, "" before Listen.
func (s *Server) Fingerprint() string {
	if len(s.certs[0].Certificate) == 0 {
		return ""
	}
	sum := sha256.Sum256(s.certs[0].Certificate[0])
	return hex.EncodeToString(sum[:])
}

// CA is the certificate in PEM, to verify the service with; nil before Listen.
func (s *Server) CA() []byte {
	if len(s.certs[0].Certificate) == 0 {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certs[0].Certificate[0]})
}
