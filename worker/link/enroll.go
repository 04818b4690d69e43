// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// ErrDenied marks an Issuer's no that another try does not change; its text is told.
var ErrDenied = errors.New("denied")

// Issuer gives hosts their certificates. An error that is not ErrDenied may pass.
type Issuer interface {
	// Join gives a host its first certificate for a join token.
	Join(ctx context.Context, host string, token trust.Token, csr []byte) (*agentpb.Issued, error)
	// Renew gives a host a new one; it has shown one that is good.
	Renew(ctx context.Context, host string, csr []byte) (*agentpb.Issued, error)
}

// Issue lets hosts have certificates at this door. It is called before NewDoor.
func (s *Server) Issue(i Issuer) { s.issuer = i }

// Join implements agentpb.EnrollServer. Whoever asks has no certificate: what one can do
// with such a connection is bounded in crowd.
func (s *Server) Join(ctx context.Context, r *agentpb.JoinRequest) (*agentpb.Issued, error) {
	if !s.guards.joins.Allow() {
		return nil, status.Error(codes.ResourceExhausted, "too many hosts join at once: try again in a moment")
	}
	issued, err := s.issuer.Join(ctx, r.Host, trust.Token{ID: r.Token, Secret: r.Secret}, r.Csr)
	return issued, s.answer(ctx, err)
}

// Renew implements agentpb.EnrollServer: for the host of the certificate and for no other.
func (s *Server) Renew(ctx context.Context, r *agentpb.RenewRequest) (*agentpb.Issued, error) {
	who, _, err := s.admit(ctx, trust.Host)
	if err != nil {
		return nil, err
	}
	if who.ID == "" {
		return nil, status.Error(codes.PermissionDenied, "the connection is not TLS")
	}
	issued, err := s.issuer.Renew(ctx, who.ID, r.Csr)
	return issued, s.answer(ctx, err)
}

func (s *Server) answer(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrDenied):
		from := "unknown"
		if p, ok := peer.FromContext(ctx); ok {
			from = p.Addr.String()
		}
		s.log.Warn("enrolment denied", "peer", from, "cause", err)
		return status.Error(codes.PermissionDenied, err.Error())
	}
	s.log.Warn("enrolment failed", "cause", err)
	return status.Error(codes.Unavailable, "no certificate can be issued now, see the log of the worker")
}

// cutWhy is what is told to streams that CutCertificates ends.
const cutWhy = "the certificate of this link is revoked, or its authority retired"

var cutRefusal = &agentpb.Refusal{Reason: agentpb.Refusal_UNSPECIFIED, Detail: cutWhy}

// late says why a stream that was admitted comes too late to be used: the worker stops, or the
// certificate was revoked since. The caller holds the lock and notes the stream under it, so a
// revocation is seen here, or CutCertificates finds the stream.
func (s *Server) late(shown []*x509.Certificate) *agentpb.Refusal {
	switch {
	case s.closed:
		return stopping
	case s.trust != nil && s.trust.Revoked(shown) != nil:
		return cutRefusal
	}
	return nil
}

// CutCertificates ends the streams whose certificates, as they were shown, are worth nothing
// any more: links, those that stand by, and relays from and to other workers. Connections on which other
// workers were asked are dialled anew. It returns hosts, and workers as worker/ID. bad must not block.
func (s *Server) CutCertificates(bad func(shown []*x509.Certificate) bool) (cut []string) {
	s.mu.Lock()
	wires, quiet := slices.Collect(maps.Keys(s.wires)), slices.Collect(maps.Keys(s.silent))
	carriers, owners := slices.Collect(maps.Keys(s.inbounds)), slices.Collect(maps.Values(s.relays))
	s.mu.Unlock()
	for _, w := range wires {
		if len(w.shown) > 0 && bad(w.shown) {
			w.mu.Lock()
			cut = append(cut, w.host)
			w.mu.Unlock()
			w.refuse(nil, cutRefusal)
		}
	}
	for _, q := range quiet {
		if len(q.shown) > 0 && bad(q.shown) {
			cut = append(cut, q.host)
			q.out.refuse(cutRefusal)
		}
	}
	for _, in := range carriers {
		if len(in.shown) > 0 && bad(in.shown) {
			cut = append(cut, trust.Identity{Role: trust.Worker, ID: in.carrier}.String())
			in.cancel(errors.New(cutWhy))
		}
	}
	for _, r := range owners {
		r.mu.Lock()
		shown := r.shown
		r.mu.Unlock()
		if len(shown) > 0 && bad(shown) {
			cut = append(cut, trust.Identity{Role: trust.Worker, ID: r.peer.ID}.String())
			r.cancel(errors.New(cutWhy))
		}
	}
	s.peers.drop()
	return cut
}

// certificatesOf are those that the other side of a stream has shown, nil on plaintext.
func certificatesOf(stream context.Context) []*x509.Certificate {
	if p, ok := peer.FromContext(stream); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			return info.State.PeerCertificates
		}
	}
	return nil
}
