// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
)

// Door is the configuration of a server that lets nobody in without a certificate of
// this fleet. Who it is, and whether the role is right, Client tells of a connection.
func (s *Source) Door(protocols ...string) *tls.Config {
	return s.listen(tls.RequireAndVerifyClientCert, protocols)
}

// Desk is the configuration of a server that asks for a certificate and looks at it
// later, so that it can answer in words. It must call Client before anything else.
func (s *Source) Desk(protocols ...string) *tls.Config {
	return s.listen(tls.RequestClientCert, protocols)
}

func (s *Source) listen(auth tls.ClientAuthType, protocols []string) *tls.Config {
	var common atomic.Pointer[doorway]
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			m, k := s.material(), s.known.Load()
			joins := auth == tls.RequireAndVerifyClientCert && hello.ServerName == JoinName
			d := doorway{m: m, known: k, period: ticketPeriod(s.c.now())}
			if last := common.Load(); !joins && last != nil && last.m == d.m && last.known == d.known && last.period == d.period {
				return last.conf, nil
			}
			d.conf = &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: protocols, Time: s.c.now,
				Certificates: []tls.Certificate{m.pair}, ClientCAs: k.pool(m), ClientAuth: auth,
				SessionTicketsDisabled: true,
			}
			switch {
			case joins:
				d.conf.ClientAuth, d.conf.ClientCAs, d.conf.Certificates = tls.NoClientCert, nil, []tls.Certificate{m.withAuthorities()}
				return d.conf, nil
			case auth == tls.RequireAndVerifyClientCert: // else Client is asked later
				keys, err := m.ticketKeys(d.period)
				if err != nil {
					return nil, err
				}
				d.conf.SessionTicketsDisabled = false
				d.conf.SetSessionTicketKeys(keys)
				d.conf.VerifyConnection = func(cs tls.ConnectionState) error { return k.revoked(cs.PeerCertificates[0]) }
			}
			common.Store(&d)
			return d.conf, nil
		},
	}
}

// doorway is the configuration of handshakes, and what it was made of. A connection keeps the
// one that it was made by for as long as it lives, so all share one until some of that changes.
type doorway struct {
	m      *material
	known  *Known
	period int64 // of the keys of tickets
	conf   *tls.Config
}

// Dialer is the configuration of a client that talks to this one peer.
func (s *Source) Dialer(peer Peer) *tls.Config {
	return s.dial(func(cs tls.ConnectionState) error { return s.server(cs.PeerCertificates, peer) })
}

// Etcd is the configuration of a client of etcd, whose members have no identity of this
// fleet: one of the names must be on the certificate, the dialled one where it is known.
func (s *Source) Etcd(names ...string) *tls.Config {
	return s.dial(func(cs tls.ConnectionState) error {
		shown := cs.PeerCertificates
		if err := s.material().chain(shown, s.c.now(), x509.ExtKeyUsageServerAuth); err != nil {
			return err
		}
		want := names
		if cs.ServerName != "" { // empty for an address
			want = []string{cs.ServerName}
		}
		for _, name := range want {
			if shown[0].VerifyHostname(name) == nil {
				return nil
			}
		}
		return refuse(WrongName, "certificate %s is not for %s", subject(shown[0]), strings.Join(want, ", "))
	})
}

func (s *Source) dial(check func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// crypto/tls would check against authorities fixed now and names, not roles: check does
		// all of it instead, and nothing is sent before it has.
		InsecureSkipVerify: true,
		VerifyConnection:   check,
		ClientSessionCache: s.tickets.Load(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &s.material().pair, nil // whoever does not like it says why
		},
	}
}

// Dial connects and shakes hands before ctx ends. Errors of the dial itself are net's.
func (s *Source) Dial(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), network, address string, peer Peer) (net.Conn, error) {
	raw, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, s.Dialer(peer))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()                                                                                 // the handshake's error tells more
		return nil, &net.OpError{Op: "dial", Net: network, Addr: raw.RemoteAddr(), Err: s.Explain(err)} // nothing was sent
	}
	return conn, nil
}

// alerts are what a peer says of our certificate, as crypto/tls words it.
var alerts = map[string]string{
	tls.AlertError(42).Error():  "it refuses our certificate",
	tls.AlertError(43).Error():  "it cannot use the kind of our certificate",
	tls.AlertError(44).Error():  "our certificate is revoked",
	tls.AlertError(45).Error():  "it finds our certificate expired or not yet valid",
	tls.AlertError(46).Error():  "it refuses our certificate",
	tls.AlertError(48).Error():  "it does not know the authority of our certificate",
	tls.AlertError(49).Error():  "it admits others only",
	tls.AlertError(116).Error(): "it wants a certificate and was shown none",
}

// refusedUs finds a peer's word about our certificate. Callers in between flatten errors
// to text, so it looks for the text.
func refusedUs(err error) (why string) {
	text, longest := err.Error(), ""
	for alert, words := range alerts {
		// "unknown certificate" is how "unknown certificate authority" begins.
		if len(alert) > len(longest) && strings.Contains(text, "remote error: "+alert) {
			longest, why = alert, words
		}
	}
	return why
}

func notTLS(err error) bool {
	text := err.Error()
	return strings.Contains(text, "does not look like a TLS handshake") || strings.Contains(text, "client sent an HTTP request to an HTTPS server")
}

// Explain puts into words that the other side has refused our certificate, with what we
// know of it, or that it speaks no TLS at all; every other error stays as it is.
func (s *Source) Explain(err error) error {
	if err == nil {
		return nil
	}
	if notTLS(err) {
		return &PeerError{PlainText, "the other side does not speak TLS"}
	}
	why := refusedUs(err)
	if why == "" {
		return err
	}
	m := s.material()
	if m.leaf == nil {
		return &PeerError{RefusedUs, "the other side refused us: " + why}
	}
	text := fmt.Sprintf("the other side refused us: %s (%s from %s, valid from %s to %s)", why, subject(m.leaf), s.c.Files.Cert, when(m.leaf.NotBefore), when(m.leaf.NotAfter))
	if late := s.outOfDate(m); late != nil {
		text = fmt.Sprintf("the other side refused us: %v (from %s)", late, s.c.Files.Cert)
	}
	return &PeerError{RefusedUs, text}
}

// judge names the reason of a failed handshake of a server.
func (s *Source) judge(err error) *PeerError {
	var peer *PeerError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &peer):
	case errors.As(err, &verify) && len(verify.UnverifiedCertificates) > 0:
		errors.As(inWords(verify.UnverifiedCertificates[0], s.c.now(), verify.Err), &peer)
	case strings.Contains(err.Error(), "client didn't provide a certificate"):
		peer = refuse(NoCertificate, "no certificate was shown")
	case notTLS(err):
		peer = refuse(PlainText, "it does not speak TLS: plaintext is not allowed here")
	case refusedUs(err) != "":
		errors.As(s.Explain(err), &peer)
	default:
		peer = refuse(Broken, "%s", strings.TrimPrefix(err.Error(), "tls: "))
	}
	return peer
}

// Refused logs that somebody was not let in, at most about once a second: a crowd with
// expired certificates must not fill the disk. A peer that only connects and leaves, as
// probes do, is not worth a line.
func (s *Source) Refused(door, remote string, err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return
	}
	p := s.judge(err)
	if !s.words.AllowN(s.c.now(), 1) {
		s.unsaid.Add(1)
		return
	}
	s.log.Warn("peer refused", "door", door, "peer", remote, "reason", string(p.Reason), "cause", p.Error(), "not_logged", s.unsaid.Swap(0))
}
