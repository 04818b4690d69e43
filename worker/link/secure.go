// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// guest is who is at the other end of a connection.
type guest struct {
	who   trust.Identity      // zero on plaintext
	shown []*x509.Certificate // nil on plaintext
	from  net.Addr
}

// admit says whose call it is, and what was shown; the zero identity on plaintext.
func (s *Server) admit(ctx context.Context, role trust.Role) (trust.Identity, []*x509.Certificate, error) {
	var g guest
	if p, ok := peer.FromContext(ctx); ok {
		g.from = p.Addr
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			g.shown = info.State.PeerCertificates
		}
	}
	if err := s.identify(&g, role); err != nil {
		return trust.Identity{}, nil, status.Error(codes.PermissionDenied, err.Error())
	}
	return g.who, g.shown, nil
}

// identify says who a guest is, who must have a role: agents' connections are the hosts', relays are
// other workers'. On plaintext it says nothing.
func (s *Server) identify(g *guest, role trust.Role) (err error) {
	if s.trust == nil {
		return nil
	}
	if g.who, err = s.trust.Client(g.shown, role); err != nil {
		s.trust.Refused("agents", fmt.Sprint(g.from), err)
	}
	return err
}

// speaksFor says whether a guest may say Hello for a host: for its own only.
func (s *Server) speaksFor(g guest, host string) error {
	if s.trust == nil {
		return nil
	}
	err := g.who.SpeaksFor(host)
	if err != nil {
		s.trust.Refused("agents", fmt.Sprint(g.from), err)
		return denied(err)
	}
	return nil
}

// denied is what an agent is told whose certificate does not allow what it does.
func denied(why error) error {
	return &refusedError{&agentpb.Refusal{Reason: agentpb.Refusal_DENIED, Detail: why.Error()}}
}
