// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/holdfast-ha/holdfast/agent/trust"
)

// lastWord is how long a refused peer may take to hear why.
const lastWord = 500 * time.Millisecond

// doorCreds is TLS that says who was not let in. gRPC itself drops them in silence.
type doorCreds struct {
	credentials.TransportCredentials
	src   *trust.Source
	crowd *crowd
	pace  *bucket
}

func newDoorCreds(src *trust.Source, c *crowd) credentials.TransportCredentials {
	return &doorCreds{credentials.NewTLS(src.Door("h2")), src, c, &bucket{now: time.Now}}
}

// Clone implements credentials.TransportCredentials.
func (d *doorCreds) Clone() credentials.TransportCredentials {
	return &doorCreds{d.TransportCredentials.Clone(), d.src, d.crowd, d.pace}
}

// ServerHandshake implements credentials.TransportCredentials.
func (d *doorCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if err := d.pace.enter(); err != nil {
		return nil, nil, err
	}
	k := &kept{Conn: raw}
	k.open.Store(true)
	conn, info, err := d.TransportCredentials.ServerHandshake(k)
	k.open.Store(false)
	if err != nil {
		d.src.Refused("agents", raw.RemoteAddr().String(), err)
		leave(raw)
		return conn, info, err
	}
	shown := []*x509.Certificate(nil)
	if t, ok := info.(credentials.TLSInfo); ok {
		shown = t.State.PeerCertificates
	}
	held, err := d.crowd.enter(conn, shown)
	if err != nil {
		d.src.Refused("agents", raw.RemoteAddr().String(), err)
		_ = conn.Close() // it was told enough
		return nil, nil, err
	}
	return held, info, nil
}

// kept is a connection that a failed handshake does not close.
type kept struct {
	net.Conn
	open atomic.Bool
}

// Close implements net.Conn.
func (k *kept) Close() error {
	if k.open.Load() {
		return nil
	}
	return k.Conn.Close()
}

// leave lets a refused peer read why before gRPC closes the connection: closing while its
// own first frames are unread would reset it, and the reason would be lost.
func leave(raw net.Conn) {
	if w, ok := raw.(interface{ CloseWrite() error }); ok && w.CloseWrite() == nil && raw.SetReadDeadline(time.Now().Add(lastWord)) == nil {
		_, _ = io.CopyN(io.Discard, raw, 64<<10) // ends with the peer, at the deadline, or with enough
	}
}

// admit says whose stream it is, and what was shown; the zero identity on plaintext.
// Agents' streams are the hosts', relays are other workers'.
func (s *Server) admit(ctx context.Context, role trust.Role) (trust.Identity, []*x509.Certificate, error) {
	if s.trust == nil {
		return trust.Identity{}, nil, nil
	}
	from := "unknown"
	err := errors.New("the connection is not TLS")
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			var id trust.Identity
			if id, err = s.trust.Client(info.State.PeerCertificates, role); err == nil {
				return id, info.State.PeerCertificates, nil
			}
		}
	}
	s.trust.Refused("agents", from, err)
	return trust.Identity{}, nil, status.Error(codes.PermissionDenied, err.Error())
}

// speaksFor says whether who may say Hello for a host: for its own only.
func (s *Server) speaksFor(ctx context.Context, who trust.Identity, host string) error {
	if s.trust == nil {
		return nil
	}
	err := who.SpeaksFor(host)
	if err == nil {
		return nil
	}
	if p, ok := peer.FromContext(ctx); ok {
		s.trust.Refused("agents", p.Addr.String(), err)
	}
	return status.Error(codes.PermissionDenied, err.Error())
}
