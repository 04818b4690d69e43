// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"crypto/x509"
	"errors"

	"google.golang.org/grpc/codes"
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

// Issue lets hosts have certificates at this door. It is called before NewGRPC.
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

// CutCertificates ends the sessions whose certificates, as they were shown, are worth
// nothing any more, and returns their hosts. bad must not block.
func (s *Server) CutCertificates(bad func(shown []*x509.Certificate) bool) (hosts []string) {
	s.mu.Lock()
	var all []*wire
	for w := range s.wires {
		if len(w.shown) > 0 {
			all = append(all, w)
		}
	}
	s.mu.Unlock()
	for _, w := range all {
		if bad(w.shown) {
			w.mu.Lock()
			hosts = append(hosts, w.host)
			w.mu.Unlock()
			w.refuse(&agentpb.Refusal{Reason: agentpb.Refusal_UNSPECIFIED, Detail: "the certificate of this link is revoked, or its authority retired"})
		}
	}
	return hosts
}
